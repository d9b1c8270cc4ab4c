//! The files of the page.

/// A file of the page, with its kind.
pub(super) struct Asset {
    name: &'static str,
    pub(super) kind: &'static str,
    pub(super) bytes: &'static [u8],
}

const HTML: &str = "text/html; charset=utf-8";
const SCRIPT: &str = "text/javascript; charset=utf-8";

macro_rules! asset {
    ($name:literal, $kind:expr) => {
        Asset {
            name: $name,
            kind: $kind,
            bytes: include_bytes!(concat!("assets/", $name)),
        }
    };
}

/// The front page.
pub(super) const PAGE: Asset = asset!("index.html", HTML);

const ASSETS: [Asset; 8] = [
    asset!("app.css", "text/css; charset=utf-8"),
    asset!("app.js", SCRIPT),
    asset!("form.js", SCRIPT),
    asset!("image.js", SCRIPT),
    asset!("jobs.js", SCRIPT),
    asset!("page.js", SCRIPT),
    asset!("watch.js", SCRIPT),
    asset!("icon.svg", "image/svg+xml"),
];

/// A file by its name.
pub(super) fn find(name: &str) -> Option<&'static Asset> {
    const { &ASSETS }.iter().find(|asset| asset.name == name)
}
