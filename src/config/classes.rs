//! The classes of a network: what their embedding holds, and which files they ask for.

use super::validate::require;
use super::{ConfigError, LucidrainsStructure, ModelConfig};

/// Most classes that are accepted; more is a damaged or hostile file.
const MOST_CLASSES: i64 = 1_000_000;

/// True for a setting that files leave out.
#[allow(clippy::trivially_copy_pass_by_ref)]
pub(super) fn is_false(value: &bool) -> bool {
    !value
}

/// Rows of an embedding of the classes: one each, and one that means "no class"; none without classes.
pub(crate) fn class_rows(classes: Option<i64>, null_class: bool) -> Option<i64> {
    classes.map(|classes| classes + i64::from(null_class))
}

impl ModelConfig {
    /// Number of classes of a class-conditional network, without the one that means "no class".
    pub fn classes(&self) -> Option<i64> {
        self.classes_and_null().0
    }

    /// Number of the class that means "no class", if the network has one: that after the last, as many as there are
    /// classes. A network learns it from images whose class was dropped, and guidance without a classifier needs it.
    pub fn null_class(&self) -> Option<i64> {
        let (classes, null) = self.classes_and_null();
        classes.filter(|_| null)
    }

    /// Rows of an embedding of the classes: one each, and one for "no class"; none without classes.
    pub fn class_rows(&self) -> Option<i64> {
        let (classes, null) = self.classes_and_null();
        class_rows(classes, null)
    }

    /// Sets the number of classes, or none, and whether one more means "no class". The rest of the network stays as it
    /// is.
    pub fn set_classes(&mut self, classes: Option<i64>, null_class: bool) {
        let (count, null) = match self {
            ModelConfig::Unet(m) => (&mut m.classes, &mut m.null_class),
            ModelConfig::UnetAttention(m) => (&mut m.classes, &mut m.null_class),
            ModelConfig::Lucidrains(m) => (&mut m.classes, &mut m.null_class),
            ModelConfig::UnetConcat(m) => (&mut m.classes, &mut m.null_class),
            ModelConfig::Gau(m) => (&mut m.classes, &mut m.null_class),
        };
        (*count, *null) = (classes, classes.is_some() && null_class);
        if let (None, ModelConfig::Lucidrains(m)) = (classes, self) {
            m.structure = LucidrainsStructure::Main;
        }
    }

    /// The same for a network that begins with new weights: lucidrains' becomes the one that the package has for
    /// classes, so that the package can load it.
    pub fn make_conditional(&mut self, classes: i64, null_class: bool) {
        self.set_classes(Some(classes), null_class);
        if let ModelConfig::Lucidrains(m) = self {
            m.structure = LucidrainsStructure::ClassifierFreeGuidance;
            m.full_attention.fill(false);
        }
    }

    /// True if programs before format 3 of checkpoints do not know such a network: they had classes in the U-Net with
    /// attention alone, and none that means "no class".
    pub(crate) fn has_new_classes(&self) -> bool {
        let (classes, null) = self.classes_and_null();
        classes.is_some() && (null || !matches!(self, ModelConfig::UnetAttention(_)))
    }

    fn classes_and_null(&self) -> (Option<i64>, bool) {
        match self {
            ModelConfig::Unet(m) => (m.classes, m.null_class),
            ModelConfig::UnetAttention(m) => (m.classes, m.null_class),
            ModelConfig::Lucidrains(m) => (m.classes, m.null_class),
            ModelConfig::UnetConcat(m) => (m.classes, m.null_class),
            ModelConfig::Gau(m) => (m.classes, m.null_class),
        }
    }

    pub(super) fn validate_classes(&self) -> Result<(), ConfigError> {
        let (classes, null) = self.classes_and_null();
        require(
            (1..=MOST_CLASSES).contains(&classes.unwrap_or(1)),
            "model.classes",
            classes.unwrap_or(1),
            "want 1 to 1000000 classes",
        )?;
        require(
            classes.is_some() || !null,
            "model.null_class",
            null,
            "means \"none of the classes\" and needs model.classes; set both or neither",
        )
    }
}

#[cfg(test)]
mod tests {
    use clap::ValueEnum;

    use super::*;
    use crate::config::{ModelKind, Preset, RunConfig};

    #[test]
    fn classes_come_back_from_text_and_none_leave_no_trace() {
        for kind in ModelKind::value_variants() {
            let mut config = Preset::Demo.config();
            config.model = kind.config([3, 128, 128]);
            let plain = config.clone();
            let text = config.to_toml().unwrap();
            for word in ["classes", "null_class", "structure"] {
                assert!(!text.contains(word), "{text}");
            }
            config.model.set_classes(Some(7), false);
            assert_eq!(config.model.null_class(), None);
            config.model.make_conditional(10, true);
            config.validate().unwrap();
            let back = RunConfig::from_toml(&config.to_toml().unwrap(), Preset::Demo).unwrap();
            assert_eq!(back, config, "{kind:?}");
            let json = serde_json::to_string(&config).unwrap();
            assert_eq!(serde_json::from_str::<RunConfig>(&json).unwrap(), config);
            let m = &back.model;
            let found = (m.classes(), m.null_class(), m.class_rows());
            assert_eq!(found, (Some(10), Some(10), Some(11)), "{kind:?}");
            config.model.set_classes(None, true);
            if *kind != ModelKind::Lucidrains {
                // Its last level's attention is another one now.
                assert_eq!(config, plain, "{kind:?}");
            }
            assert_eq!(config.model.class_rows(), None);
        }
    }

    #[test]
    fn impossible_classes_are_refused() {
        for kind in ModelKind::value_variants() {
            let refused = |edit: &dyn Fn(&mut ModelConfig)| {
                let mut model = kind.config([3, 128, 128]);
                edit(&mut model);
                model.validate().unwrap_err().setting
            };
            let zero = refused(&|m| m.set_classes(Some(0), true));
            assert_eq!(zero, "model.classes");
            let many = refused(&|m| m.set_classes(Some(1_000_001), false));
            assert_eq!(many, "model.classes");
        }
        let error = Preset::Demo.config();
        let mut model = error.model;
        model.unet_mut().null_class = true;
        assert_eq!(model.validate().unwrap_err().setting, "model.null_class");
        let mut model = ModelKind::Lucidrains.config([3, 128, 128]);
        model.make_conditional(3, true);
        model.validate().unwrap();
        if let ModelConfig::Lucidrains(m) = &mut model {
            m.full_attention[1] = true;
        }
        assert_eq!(model.validate().unwrap_err().setting, "model.structure");
    }
}
