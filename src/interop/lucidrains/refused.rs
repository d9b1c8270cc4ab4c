//! Networks of the package that are recognised only to be refused, with what was seen.
//!
//! Before 1.9 the maths changed several times under the same keys (attention by cosines, convolutions
//! with standardised weights), so such files cannot be read without the version that wrote them. The same holds for the
//! network with classes before 2.0.

use anyhow::{Result, bail, ensure};

use crate::interop::Keys;

/// Oldest version whose networks are read.
const OLDEST: (u64, u64) = (1, 9);

/// Refuses networks of versions before 1.9, and the package's other networks.
///
/// # Errors
/// Names what was seen and the versions that did so.
pub(super) fn refuse(keys: &Keys, version: Option<&str>) -> Result<()> {
    if let Some((text, parsed)) = version.and_then(|v| Some((v, parse(v)?))) {
        ensure!(
            parsed >= OLDEST,
            "it was written by denoising-diffusion-pytorch {text}; want version 1.9 or later: the \
             network's maths changed before that. Sample or convert it with the version that wrote it"
        );
    }
    if let Some((seen, kind)) = other_kind(keys) {
        bail!(
            "{seen} is there: {kind}, which is not supported; want the package's `Unet` with the fixed \
             sinusoidal embedding of t"
        );
    }
    let group = "downs.0.0.block1.norm.weight";
    ensure!(
        !keys.has(super::NULL_CLASS) || !keys.has(group),
        "{group} is there beside {}, as in classifier_free_guidance of denoising-diffusion-pytorch before 2.0; want \
         version 2.0 or later: the network's maths changed before that. Sample or convert it with the version that \
         wrote it",
        super::NULL_CLASS
    );
    if let Some((seen, versions)) = sign_of_age(keys) {
        bail!(
            "{seen}, as in denoising-diffusion-pytorch {versions}; want version 1.9 or later: the \
             network's maths changed before that. Sample or convert it with the version that wrote it"
        );
    }
    Ok(())
}

/// Major and minor number.
fn parse(version: &str) -> Option<(u64, u64)> {
    let mut parts = version.split('.');
    let mut next = || parts.next()?.parse().ok();
    Some((next()?, next()?))
}

/// What was seen, and its network. In these the package still uses older keys.
fn other_kind(keys: &Keys) -> Option<(&'static str, &'static str)> {
    const LEARNED: &str = "time_mlp.0.weights";
    if keys.has(LEARNED) {
        let network = "a network with `learned_sinusoidal_cond` or `random_fourier_features`";
        return Some((LEARNED, network));
    }
    let one_dimensional = keys.shape("init_conv.weight", 3).is_ok();
    one_dimensional.then_some(("init_conv.weight with 3 dimensions", "the network `Unet1D`"))
}

/// What was seen, and its versions; the oldest signs first.
fn sign_of_age(keys: &Keys) -> Option<(String, &'static str)> {
    let there = |key: &str| format!("{key} is there");
    if keys.has("downs.0.0.ds_conv.weight") {
        return Some((
            there("downs.0.0.ds_conv.weight (ConvNeXt blocks)"),
            "0.x, before 0.16",
        ));
    }
    if keys.has("downs.0.0.block1.block.0.weight") {
        return Some((there("downs.0.0.block1.block.0.weight"), "0.x, before 0.16"));
    }
    if !keys.any("final_res_block.") {
        return Some(("there is no final_res_block".to_owned(), "before 0.20"));
    }
    if keys.has(super::NULL_CLASS) {
        // What follows are signs of the other network, whose structure this one never had.
        return None;
    }
    let halving = "downs.0.3.weight";
    if let Ok([_, _, height @ 4, width @ 4]) = keys.shape(halving, 4) {
        return Some((
            format!("{halving} is a {height}x{width} convolution"),
            "before 0.32",
        ));
    }
    if keys.any("downs.0.2.fn.") {
        return Some((there("downs.0.2.fn.*"), "before 1.8"));
    }
    if !keys.has("downs.0.2.mem_kv") {
        return Some(("there is no downs.0.2.mem_kv".to_owned(), "before 1.9"));
    }
    None
}
