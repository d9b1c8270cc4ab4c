//! The header of a `.ddcm` file: properties common to all its images.

use std::ops::Range;

use super::error::DdcmError;
use super::fields::{Fields, push_varint};
use super::time_steps::{parse_steps, push_steps};

const START_STORED: u8 = 1;
const LAST_STORED: u8 = 2;
const MAX_SETTINGS_BYTES: usize = 1024;
const MAX_TIMESTEPS: u32 = 1 << 20;
const MAX_INDEX_BITS: u32 = 16;
const MAX_VALUES: i64 = 1 << 28;

/// Everything decoding needs besides weights and indices.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DdcmHeader {
    /// BLAKE3 of the model's weights and settings.
    pub model_hash: [u8; 32],
    /// Other settings that change decoding, such as the sigma of the reverse steps; at most 1024 bytes without control
    /// characters.
    pub settings: String,
    /// Time steps T of the model, 1 to 2^20.
    pub timesteps: u32,
    /// The visited t in the order of sampling: falling, 0-based, below T.
    pub steps: Vec<u32>,
    /// K, a power of two from 2 to 65536.
    pub codebook_size: u32,
    /// Seed of the codebooks.
    pub codebook_seed: u64,
    /// Shape of an image, `[C, H, W]`; at most 2^28 values.
    pub chw: [i64; 3],
    /// True if the index of x_T is stored; else x_T is entry 0.
    pub start_stored: bool,
    /// True if the index of the last reverse step is stored; else that step adds no noise.
    pub last_stored: bool,
}

impl DdcmHeader {
    /// The codebook steps that the indices of an image belong to: 0 is x_T, 1..=S are the reverse steps.
    pub fn codebook_steps(&self) -> Range<u64> {
        let end = self.steps.len() as u64 + u64::from(self.last_stored);
        u64::from(!self.start_stored)..end
    }

    /// Number of indices of each image.
    pub fn indices_per_image(&self) -> usize {
        let steps = self.codebook_steps();
        steps.end.saturating_sub(steps.start) as usize
    }

    /// Bits of an index, log2 K.
    pub fn index_bits(&self) -> u32 {
        self.codebook_size.ilog2()
    }

    /// Refuses headers that the format cannot store.
    pub(super) fn check(&self) -> Result<(), DdcmError> {
        let ensure = |holds: bool, what: &dyn Fn() -> String| {
            if holds {
                Ok(())
            } else {
                Err(DdcmError::malformed(what()))
            }
        };
        let settings = &self.settings;
        ensure(settings.len() <= MAX_SETTINGS_BYTES, &|| {
            let found = settings.len();
            format!("settings of {found} bytes, want at most {MAX_SETTINGS_BYTES}")
        })?;
        ensure(!settings.chars().any(char::is_control), &|| {
            "control characters in the settings".to_owned()
        })?;
        ensure((1..=MAX_TIMESTEPS).contains(&self.timesteps), &|| {
            let found = self.timesteps;
            format!("a model of {found} time steps, want 1 to {MAX_TIMESTEPS}")
        })?;
        let falling = self.steps.windows(2).all(|pair| pair[1] < pair[0]);
        let first = self.steps.first();
        ensure(
            falling && first.is_some_and(|t| *t < self.timesteps),
            &|| {
                let below = self.timesteps;
                format!(
                    "the visited time steps must fall, there must be one, and all be below {below}"
                )
            },
        )?;
        let size = self.codebook_size;
        let fits = size.is_power_of_two() && (1..=MAX_INDEX_BITS).contains(&size.ilog2());
        ensure(fits, &|| {
            format!("a codebook of {size} entries, want a power of two from 2 to 65536")
        })?;
        let chw = self.chw;
        let values = chw
            .iter()
            .try_fold(1i64, |n, side| n.checked_mul((*side).max(0)));
        ensure(
            values.is_some_and(|n| (1..=MAX_VALUES).contains(&n)),
            &|| {
                format!(
                    "images [C, H, W] = {chw:?}, want at least 1 each and at most {MAX_VALUES} values"
                )
            },
        )?;
        ensure(self.indices_per_image() > 0, &|| {
            "images without an index".to_owned()
        })
    }

    /// Appends all fields from the flags to W.
    pub(super) fn push_to(&self, bytes: &mut Vec<u8>) {
        let start = if self.start_stored { START_STORED } else { 0 };
        let last = if self.last_stored { LAST_STORED } else { 0 };
        bytes.push(start | last);
        bytes.extend(self.model_hash);
        push_varint(bytes, self.settings.len() as u64);
        bytes.extend(self.settings.as_bytes());
        push_varint(bytes, u64::from(self.timesteps));
        push_steps(bytes, self.timesteps, &self.steps);
        bytes.push(self.index_bits() as u8);
        push_varint(bytes, self.codebook_seed);
        for side in self.chw {
            push_varint(bytes, side as u64);
        }
    }

    /// Reads the output of [`push_to`](DdcmHeader::push_to), and checks it.
    pub(super) fn parse(fields: &mut Fields) -> Result<DdcmHeader, DdcmError> {
        let flags = fields.u8()?;
        if flags & !(START_STORED | LAST_STORED) != 0 {
            return Err(DdcmError::malformed(format!(
                "flags {flags:#010b}, want bits 0 and 1 alone"
            )));
        }
        let model_hash = fields.array()?;
        let settings = parse_settings(fields)?;
        let timesteps = fields.varint_to(u64::from(MAX_TIMESTEPS), "T")? as u32;
        let header = DdcmHeader {
            model_hash,
            settings,
            timesteps,
            steps: parse_steps(fields, timesteps)?,
            codebook_size: parse_codebook_size(fields)?,
            codebook_seed: fields.varint()?,
            chw: parse_chw(fields)?,
            start_stored: flags & START_STORED != 0,
            last_stored: flags & LAST_STORED != 0,
        };
        header.check()?;
        Ok(header)
    }
}

fn parse_settings(fields: &mut Fields) -> Result<String, DdcmError> {
    let length = fields.varint_to(MAX_SETTINGS_BYTES as u64, "the length of the settings")?;
    let text = std::str::from_utf8(fields.take(length as usize)?);
    let not_text = |_| DdcmError::malformed("settings that are not UTF-8".to_owned());
    Ok(text.map_err(not_text)?.to_owned())
}

fn parse_codebook_size(fields: &mut Fields) -> Result<u32, DdcmError> {
    let bits = u32::from(fields.u8()?);
    if bits > MAX_INDEX_BITS {
        let what = format!("indices of {bits} bits, want 1 to {MAX_INDEX_BITS}");
        return Err(DdcmError::malformed(what));
    }
    Ok(1 << bits)
}

fn parse_chw(fields: &mut Fields) -> Result<[i64; 3], DdcmError> {
    let mut chw = [0; 3];
    for side in &mut chw {
        *side = fields.varint_to(MAX_VALUES as u64, "a side of the images")? as i64;
    }
    Ok(chw)
}
