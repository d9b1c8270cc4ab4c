//! The identity of a network, by which a file that fits only one network names it.

use anyhow::{Result, bail};
use tch::{Device, Kind, Tensor};

use crate::config::RunConfig;
use crate::diffusion::Schedule;
use crate::native::host_bytes;

/// BLAKE3 of all that decides a network's predictions: its settings, its kind of prediction, its betas, and the
/// name, shape and values of each weight, little-endian f32. Weights that were exported and imported again keep it.
///
/// # Errors
/// A weight that is not f32.
pub fn fingerprint(config: &RunConfig, weights: &[(String, Tensor)]) -> Result<blake3::Hash> {
    let mut hasher = blake3::Hasher::new();
    let settings = (&config.model, config.diffusion.prediction);
    hasher.update(&serde_json::to_vec(&settings)?);
    for beta in Schedule::new(&config.diffusion).betas {
        hasher.update(&beta.to_le_bytes());
    }
    for (name, tensor) in weights {
        if tensor.kind() != Kind::Float {
            bail!("weight {name} is {:?}, want f32", tensor.kind());
        }
        hasher.update(&serde_json::to_vec(&(name, tensor.size()))?);
        let values = tensor.detach().to_device(Device::Cpu).contiguous();
        hasher.update_rayon(host_bytes(&values)?);
    }
    Ok(hasher.finalize())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Preset;

    #[test]
    fn any_change_of_the_network_changes_it() {
        let config = Preset::Demo.config();
        let weights = |value: f32| vec![("w".to_owned(), Tensor::from_slice(&[value, 2.0]))];
        let of = |config: &RunConfig, value| fingerprint(config, &weights(value)).unwrap();
        let first = of(&config, 1.0);
        assert_eq!(first, of(&config, 1.0));
        assert_ne!(first, of(&config, 1.5));
        let mut other = config.clone();
        other.diffusion.timesteps = 251;
        assert_ne!(first, of(&other, 1.0));
        let mut trained_otherwise = config.clone();
        trained_otherwise.optim.lr = 1.0;
        assert_eq!(first, of(&trained_otherwise, 1.0));
    }
}
