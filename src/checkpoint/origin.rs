//! The program that weights came from, and what its layout needs beyond the network's settings.

use clap::ValueEnum;
use serde::{Deserialize, Serialize};

/// A code base.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Family {
    /// This program, and the PyTorch reference in scripts/reference.
    Ddpm,
    /// Hugging Face diffusers' `UNet2DModel`.
    Diffusers,
    /// pesser/pytorch_diffusion.
    Pesser,
    /// w86763777/pytorch-ddpm.
    W86763777,
    /// OpenAI's improved-diffusion and guided-diffusion.
    Openai,
    /// lucidrains' denoising-diffusion-pytorch.
    Lucidrains,
    /// Su Jianlin's Keras-DDPM.
    KerasDdpm,
}

/// Origin of weights: what their family's layout needs beyond the network's settings.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Origin {
    /// The code base.
    pub family: Family,
    /// OpenAI: how queries, keys and values are fused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attention_order: Option<AttentionOrder>,
    /// diffusers: attention weights are called query, key, value, proj_attn.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub old_attention_names: bool,
    /// lucidrains: the `version` in the file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
}

impl Origin {
    /// Weights of `family`, without any of its peculiarities.
    pub fn new(family: Family) -> Origin {
        Origin {
            family,
            attention_order: None,
            old_attention_names: false,
            version: None,
        }
    }
}

/// Order of the rows of a fused query-key-value weight in OpenAI's files.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum AttentionOrder {
    /// Heads first: improved-diffusion, and guided-diffusion by default.
    Legacy,
    /// guided-diffusion with `use_new_attention_order`.
    New,
}

impl std::fmt::Display for Family {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Family::Ddpm => "ddpm (this program's own names)",
            Family::Diffusers => "diffusers UNet2DModel",
            Family::Pesser => "pesser/pytorch_diffusion",
            Family::W86763777 => "w86763777/pytorch-ddpm",
            Family::Openai => "OpenAI improved-diffusion or guided-diffusion",
            Family::Lucidrains => "lucidrains denoising-diffusion-pytorch",
            Family::KerasDdpm => "Keras-DDPM",
        })
    }
}
