//! Lists of keys as their code would write them, for tests: a walk through the constructor, with running
//! indices where the layout has formulas.

use super::super::fixtures::{List, missing, small};
use super::*;
use crate::config::ScheduleKind;
use crate::interop::Known;

/// The keys of a real file.
pub(super) const IMPROVED: &str = include_str!("../testdata/improved.txt");

/// The arguments of their `UNetModel`.
#[derive(Debug, Clone)]
pub(super) struct Net {
    pub(super) model_channels: i64,
    pub(super) widths: Vec<i64>,
    pub(super) blocks: usize,
    /// Levels.
    pub(super) attention: Vec<usize>,
    pub(super) scale_shift: bool,
    pub(super) updown: bool,
    pub(super) classes: Option<i64>,
    pub(super) learn_sigma: bool,
}

pub(super) fn three_levels() -> Net {
    Net {
        model_channels: 32,
        widths: vec![32, 64, 96],
        blocks: 2,
        attention: vec![1, 2],
        scale_shift: false,
        updown: false,
        classes: Some(10),
        learn_sigma: false,
    }
}

impl Net {
    /// What their constructor makes, in its order.
    pub(super) fn state_dict(&self) -> List {
        let mut list = List::default();
        let time = 4 * self.model_channels;
        list.linear("time_embed.0", self.model_channels, time);
        list.linear("time_embed.2", time, time);
        if let Some(classes) = self.classes {
            list.add("label_emb.weight", &[classes, time]);
        }
        // guided-diffusion's base width; improved-diffusion's is the same wherever it works at all.
        let mut now = self.widths[0];
        list.conv("input_blocks.0.0", 3, now, 3);
        let (mut kept, mut index) = (vec![now], 1);
        for (level, &width) in self.widths.iter().enumerate() {
            for _ in 0..self.blocks {
                self.resnet(&mut list, &format!("input_blocks.{index}.0"), now, width);
                now = width;
                if self.attention.contains(&level) {
                    attend(&mut list, &format!("input_blocks.{index}.1"), now);
                }
                kept.push(now);
                index += 1;
            }
            if level + 1 < self.widths.len() {
                self.resample(&mut list, &format!("input_blocks.{index}.0"), "op", now);
                kept.push(now);
                index += 1;
            }
        }
        self.resnet(&mut list, "middle_block.0", now, now);
        attend(&mut list, "middle_block.1", now);
        self.resnet(&mut list, "middle_block.2", now, now);
        index = 0;
        for (level, &width) in self.widths.iter().enumerate().rev() {
            for i in 0..=self.blocks {
                let from = now + kept.pop().unwrap();
                self.resnet(&mut list, &format!("output_blocks.{index}.0"), from, width);
                now = width;
                let mut part = 1;
                if self.attention.contains(&level) {
                    attend(&mut list, &format!("output_blocks.{index}.{part}"), now);
                    part += 1;
                }
                if level > 0 && i == self.blocks {
                    let name = format!("output_blocks.{index}.{part}");
                    self.resample(&mut list, &name, "conv", now);
                }
                index += 1;
            }
        }
        list.norm("out.0", now);
        list.conv("out.2", now, if self.learn_sigma { 6 } else { 3 }, 3);
        list
    }

    fn resample(&self, list: &mut List, name: &str, conv: &str, channels: i64) {
        if self.updown {
            self.resnet(list, name, channels, channels);
        } else {
            list.conv(&format!("{name}.{conv}"), channels, channels, 3);
        }
    }

    fn resnet(&self, list: &mut List, name: &str, from: i64, to: i64) {
        let rows = if self.scale_shift { 2 * to } else { to };
        list.norm(&format!("{name}.in_layers.0"), from);
        list.conv(&format!("{name}.in_layers.2"), from, to, 3);
        list.linear(
            &format!("{name}.emb_layers.1"),
            4 * self.model_channels,
            rows,
        );
        list.norm(&format!("{name}.out_layers.0"), to);
        list.conv(&format!("{name}.out_layers.3"), to, to, 3);
        if from != to {
            list.conv(&format!("{name}.skip_connection"), from, to, 1);
        }
    }

    /// The settings it must be read as, with the answers of `hints`.
    pub(super) fn config(&self) -> AttentionUNetConfig {
        let on: Vec<bool> = (0..self.widths.len())
            .map(|level| self.attention.contains(&level))
            .collect();
        AttentionUNetConfig {
            height: 64,
            width: 64,
            learned_variance: self.learn_sigma,
            base_width: self.widths[0],
            widths: self.widths.clone(),
            blocks: i64::try_from(self.blocks).unwrap(),
            attention_down: on.clone(),
            attention_up: on,
            heads: 4,
            scale_shift: self.scale_shift,
            resample: if self.updown {
                Resample::Resnet
            } else {
                Resample::Conv
            },
            time_channels: self.model_channels,
            time_width: 4 * self.model_channels,
            cos_first: true,
            classes: self.classes,
            ..small()
        }
    }
}

fn attend(list: &mut List, name: &str, channels: i64) {
    list.norm(&format!("{name}.norm"), channels);
    list.conv1d(&format!("{name}.qkv"), channels, 3 * channels);
    list.conv1d(&format!("{name}.proj_out"), channels, channels);
}

/// The published files' networks, made from the flags in the READMEs.
pub(super) fn published() -> [(Known, Net); 5] {
    let cifar = Net {
        model_channels: 128,
        widths: vec![128, 256, 256, 256],
        blocks: 3,
        attention: vec![1, 2],
        scale_shift: true,
        updown: false,
        classes: None,
        learn_sigma: true,
    };
    let imagenet = Net {
        widths: vec![128, 256, 384, 512],
        attention: vec![2, 3],
        ..cifar.clone()
    };
    let lsun = Net {
        widths: vec![128, 128, 256, 256, 512, 512],
        blocks: 2,
        attention: vec![4],
        scale_shift: false,
        ..cifar.clone()
    };
    let guided = Net {
        model_channels: 256,
        widths: vec![256, 256, 512, 512, 1024, 1024],
        blocks: 2,
        attention: vec![3, 4, 5],
        updown: true,
        ..cifar.clone()
    };
    [
        (Known::ImprovedImagenet64, imagenet),
        (Known::ImprovedCifar10, cifar),
        (Known::ImprovedLsun256, lsun),
        (Known::Guided256, guided.clone()),
        (Known::GuidedLsun256, guided),
    ]
}

pub(super) fn hints() -> Hints {
    Hints {
        num_heads: Some(4),
        attention_order: Some(AttentionOrder::Legacy),
        schedule: Some(ScheduleKind::Linear),
        timesteps: Some(1000),
        image_size: Some((64, 64)),
        ..Hints::default()
    }
}

pub(super) fn infer_well(list: &List, hints: &Hints) -> Settings {
    let mut report = Report::default();
    let settings = infer(&list.keys(), hints, &mut report).unwrap();
    assert_eq!(missing(&report), [""; 0]);
    settings
}

pub(super) fn error(list: &List, hints: &Hints) -> String {
    let error = infer(&list.keys(), hints, &mut Report::default()).unwrap_err();
    error.to_string()
}
