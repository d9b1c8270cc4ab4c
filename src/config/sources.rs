//! Where images come from, and where their classes.

use std::convert::Infallible;
use std::fmt;
use std::io;
use std::path::{self, Path, PathBuf};
use std::str::FromStr;

use serde::de::{Error, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Where images lie: a folder, an archive or another file that holds images, or several of these. In settings a text,
/// or a list of texts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sources(Vec<PathBuf>);

impl Sources {
    /// These places, in this order; `None` for none.
    pub fn new(paths: Vec<PathBuf>) -> Option<Sources> {
        (!paths.is_empty()).then_some(Sources(paths))
    }

    /// The places, at least one.
    pub fn paths(&self) -> &[PathBuf] {
        &self.0
    }

    /// The place, if there is only one.
    pub fn one(&self) -> Option<&Path> {
        match &self.0[..] {
            [one] => Some(one),
            _ => None,
        }
    }

    /// The same with paths that begin at the root, from the current folder.
    ///
    /// # Errors
    /// No current folder.
    pub fn absolute(&self) -> io::Result<Sources> {
        let absolute: io::Result<_> = self.0.iter().map(path::absolute).collect();
        Ok(Sources(absolute?))
    }
}

impl<P: Into<PathBuf>> From<P> for Sources {
    fn from(path: P) -> Sources {
        Sources(vec![path.into()])
    }
}

impl fmt::Display for Sources {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, path) in self.0.iter().enumerate() {
            let comma = if i == 0 { "" } else { ", " };
            write!(f, "{comma}{}", path.display())?;
        }
        Ok(())
    }
}

impl Serialize for Sources {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match &self.0[..] {
            [one] => one.serialize(serializer),
            several => several.serialize(serializer),
        }
    }
}

impl<'de> Deserialize<'de> for Sources {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Paths;
        impl<'de> Visitor<'de> for Paths {
            type Value = Sources;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a path, or a list of paths")
            }

            fn visit_str<E: Error>(self, path: &str) -> Result<Sources, E> {
                Ok(path.into())
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Sources, A::Error> {
                let mut paths = Vec::new();
                while let Some(path) = list.next_element()? {
                    paths.push(path);
                }
                Sources::new(paths).ok_or_else(|| A::Error::custom("the list of paths is empty"))
            }
        }
        deserializer.deserialize_any(Paths)
    }
}

/// What says the classes of images. As text: `auto`, `folder`, `prefix`, `none` or a file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "String", into = "String")]
pub enum LabelsFrom {
    /// Of each source what it says itself, else the topmost folders, if there are two or more and most images lie in
    /// one; else nothing.
    Auto,
    /// The topmost folder that an image lies in.
    Folder,
    /// The file's name before the first `_`.
    Prefix,
    /// Nothing: the images have no classes.
    None,
    /// A file that lists names of images and their classes.
    File(PathBuf),
}

impl LabelsFrom {
    /// The same with a path that begins at the root, from the current folder.
    ///
    /// # Errors
    /// No current folder.
    pub fn absolute(&self) -> io::Result<LabelsFrom> {
        Ok(match self {
            LabelsFrom::File(file) => LabelsFrom::File(path::absolute(file)?),
            other => other.clone(),
        })
    }

    /// True for a file.
    pub fn is_file(&self) -> bool {
        matches!(self, LabelsFrom::File(_))
    }
}

impl fmt::Display for LabelsFrom {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            LabelsFrom::Auto => f.write_str("auto"),
            LabelsFrom::Folder => f.write_str("folder"),
            LabelsFrom::Prefix => f.write_str("prefix"),
            LabelsFrom::None => f.write_str("none"),
            LabelsFrom::File(file) => write!(f, "{}", file.display()),
        }
    }
}

impl FromStr for LabelsFrom {
    type Err = Infallible;

    fn from_str(text: &str) -> Result<Self, Infallible> {
        Ok(match text {
            "auto" => LabelsFrom::Auto,
            "folder" => LabelsFrom::Folder,
            "prefix" => LabelsFrom::Prefix,
            "none" => LabelsFrom::None,
            file => LabelsFrom::File(file.into()),
        })
    }
}

impl From<String> for LabelsFrom {
    fn from(text: String) -> LabelsFrom {
        let Ok(from) = text.parse();
        from
    }
}

impl From<LabelsFrom> for String {
    fn from(from: LabelsFrom) -> String {
        from.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Preset, RunConfig};

    #[test]
    fn one_place_is_a_text_and_several_are_a_list() {
        let mut config = Preset::Demo.config();
        let read = |text: &str| RunConfig::from_toml(text, Preset::Demo);
        for (sources, text) in [
            (Sources::from("a b"), "folder = \"a b\"\n"),
            (
                Sources::new(vec!["a".into(), "b.zip".into()]).unwrap(),
                "folder = [\"a\", \"b.zip\"]\n",
            ),
        ] {
            config.data.folder = Some(sources);
            let toml = config.to_toml().unwrap();
            assert!(toml.contains(text), "{toml}");
            assert_eq!(read(&toml).unwrap(), config);
            let json = serde_json::to_string(&config).unwrap();
            assert_eq!(serde_json::from_str::<RunConfig>(&json).unwrap(), config);
        }
        for (wrong, said) in [
            ("3", "expected a path, or a list of paths"),
            ("[]", "the list of paths is empty"),
            ("[3]", "expected"),
        ] {
            let error = read(&format!("[data]\nfolder = {wrong}\n")).unwrap_err();
            assert!(error.to_string().contains(said), "{error}");
        }
    }

    #[test]
    fn what_says_the_classes_is_a_word_or_a_file() {
        for (text, want) in [
            ("auto", LabelsFrom::Auto),
            ("folder", LabelsFrom::Folder),
            ("prefix", LabelsFrom::Prefix),
            ("none", LabelsFrom::None),
            ("./auto", LabelsFrom::File("./auto".into())),
        ] {
            let found: LabelsFrom = text.to_owned().into();
            assert_eq!((found.to_string().as_str(), found), (text, want));
        }
    }

    #[test]
    fn runs_of_before_have_no_labels_and_stay_the_same_text() {
        let mut config = Preset::Demo.config();
        assert_eq!(config.data.labels, Some(LabelsFrom::Auto));
        config.data.labels = None;
        let text = config.to_toml().unwrap();
        assert!(
            !text.contains("labels") && !text.contains("balance"),
            "{text}"
        );
        assert_eq!(RunConfig::of_a_run(&text), Some(config));
    }
}
