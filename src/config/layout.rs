//! Layout of feature maps in memory.

use std::fmt;

use clap::ValueEnum;
use serde::{Deserialize, Serialize};

/// Order in memory of feature maps and of the weights of convolutions on CUDA, from the outermost axis to the
/// innermost.
///
/// Another order takes other kernels, so the last bits differ. A CPU computes in nhwc, and nowhere does a file depend
/// on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum MapLayout {
    /// Images, channels, rows, columns: the order of the indices. What is meant where settings name none.
    Nchw,
    /// Channels last: images, rows, columns, channels.
    Nhwc,
}

impl fmt::Display for MapLayout {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Nchw => "nchw",
            Self::Nhwc => "nhwc",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Preset, RunConfig, Unnamed};

    fn read(text: &str) -> Result<Option<MapLayout>, String> {
        RunConfig::from_toml_with(text, Preset::Demo, Unnamed::OLD)
            .map(|config| config.train.layout)
            .map_err(|error| error.to_string())
    }

    #[test]
    fn it_is_named_only_where_it_was_chosen() {
        let mut config = Preset::Demo.config();
        let text = config.to_toml().unwrap();
        assert!(!text.contains("layout"), "{text}");
        assert_eq!(read(&text), Ok(None));
        let of_before = config.clone();
        config.train.layout = Some(MapLayout::Nhwc);
        let text = config.to_toml().unwrap();
        assert!(text.contains("\nlayout = \"nhwc\"\n"), "{text}");
        assert_eq!(read(&text), Ok(Some(MapLayout::Nhwc)));
        let found = config.differences(&of_before).unwrap();
        assert_eq!(found.len(), 1);
        let said = "train.layout: \"nhwc\" instead of \"(not set)\"";
        assert_eq!(found[0].to_string(), said);
        let error = read("[train]\nlayout = \"auto\"\n").unwrap_err();
        assert!(error.contains("expected `nchw` or `nhwc`"), "{error}");
    }
}
