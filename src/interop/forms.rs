//! Values between their arrangement and ours: permutations and reshapes only, so a round trip
//! keeps every bit.

use anyhow::{Result, bail, ensure};
use tch::{Device, Kind, Tensor};

use super::layout::{Channels, Entry, Form, QkvOrder};

impl Entry {
    /// Our tensors from theirs.
    ///
    /// # Errors
    /// An impossible shape for the form.
    pub(super) fn to_ours(&self, theirs: &Tensor) -> Result<Vec<Tensor>> {
        let size = theirs.size();
        let wrong =
            |wanted: &str| anyhow::anyhow!("tensor {} is {size:?}, want {wanted}", self.theirs);
        Ok(match &self.form {
            Form::Same => vec![theirs.shallow_clone()],
            Form::Pointwise { ones } => {
                let (kept, trailing) = size.split_at(size.len().saturating_sub(*ones));
                ensure!(
                    kept.len() == 2 && trailing.iter().all(|&n| n == 1),
                    wrong(&format!("[out, in] and {ones} more dimensions of 1"))
                );
                vec![theirs.reshape(kept)]
            }
            Form::Qkv { heads, order, ones } => {
                let matrix = match size.len() {
                    1 => theirs.shallow_clone(),
                    n if n == 2 + ones => theirs.reshape(&size[..2]),
                    _ => bail!(wrong("a fused query-key-value weight or bias")),
                };
                ensure!(
                    size[0] % (3 * heads) == 0 && *heads > 0,
                    wrong(&format!("a multiple of 3 x {heads} heads first"))
                );
                unfuse(&matrix, *heads, *order)
            }
            Form::InterleavedColumns => {
                ensure!(
                    size.len() == 2 && size[1] % 2 == 0,
                    wrong("a matrix with an even number of columns")
                );
                let pairs = theirs.reshape([size[0], size[1] / 2, 2]);
                vec![pairs.transpose(1, 2).reshape(size.as_slice())]
            }
            Form::SineTable { timesteps, dim } => {
                ensure!(
                    size == [*timesteps, *dim],
                    wrong(&format!("[{timesteps}, {dim}]"))
                );
                let error = (theirs - sine_table(*timesteps, *dim)).abs().max();
                // bf16 keeps 8 bits, and f32 angles of 1e5 are 6e-3 off; another table is off by 1.
                ensure!(
                    error.double_value(&[]) < 1e-2,
                    wrong(&format!(
                        "interleaved sines and cosines of t / 10000^(2k / {dim})"
                    ))
                );
                vec![]
            }
            Form::Keras {
                output,
                input,
                dense_as_conv,
            } => {
                let mut x = match size.len() {
                    1 => theirs.shallow_clone(),
                    2 => theirs.tr(),
                    4 => theirs.permute([3, 2, 0, 1]),
                    _ => bail!(wrong("one, two or four dimensions")),
                };
                x = rearrange(&x, 0, *output, false)?;
                if size.len() > 1 {
                    x = rearrange(&x, 1, *input, false)?;
                }
                if *dense_as_conv {
                    x = x.unsqueeze(-1).unsqueeze(-1);
                }
                vec![x.contiguous()]
            }
        })
    }

    /// Their tensor from ours.
    ///
    /// # Errors
    /// Another number of tensors than the form holds.
    pub(super) fn to_theirs(&self, ours: &[Tensor]) -> Result<Tensor> {
        if let Form::SineTable { timesteps, dim } = self.form {
            return Ok(sine_table(timesteps, dim));
        }
        let [first, ..] = ours else {
            bail!("no tensor of ours for {}", self.theirs);
        };
        let size = first.size();
        Ok(match &self.form {
            Form::Same | Form::SineTable { .. } => first.shallow_clone(),
            Form::Pointwise { ones } => first.reshape([size, vec![1; *ones]].concat()),
            Form::Qkv { heads, order, ones } => {
                ensure!(ours.len() == 3, "{} needs q, k and v", self.theirs);
                let fused = fuse(ours, *heads, *order);
                if size.len() == 1 {
                    return Ok(fused);
                }
                fused.reshape([fused.size(), vec![1; *ones]].concat())
            }
            Form::InterleavedColumns => {
                let halves = first.reshape([size[0], 2, size[1] / 2]);
                halves.transpose(1, 2).reshape(size.as_slice())
            }
            Form::Keras {
                output,
                input,
                dense_as_conv,
            } => {
                let mut x = rearrange(first, 0, *output, true)?;
                if size.len() > 1 {
                    x = rearrange(&x, 1, *input, true)?;
                }
                if *dense_as_conv {
                    x = x.squeeze_dim(-1).squeeze_dim(-1);
                }
                match x.dim() {
                    2 => x.tr(),
                    4 => x.permute([2, 3, 1, 0]),
                    _ => x,
                }
                .contiguous()
            }
        })
    }
}

/// `[3C, …]` to three times `[C, …]`.
fn unfuse(fused: &Tensor, heads: i64, order: QkvOrder) -> Vec<Tensor> {
    let size = fused.size();
    let (width, rest) = (size[0] / 3, &size[1..]);
    let whole = [&[width], rest].concat();
    match order {
        QkvOrder::New => fused.chunk(3, 0),
        QkvOrder::Legacy => {
            let parts = fused.reshape([&[heads, 3, width / heads], rest].concat());
            (0..3).map(|i| parts.select(1, i).reshape(&whole)).collect()
        }
    }
}

fn fuse(parts: &[Tensor], heads: i64, order: QkvOrder) -> Tensor {
    match order {
        QkvOrder::New => Tensor::cat(parts, 0),
        QkvOrder::Legacy => {
            let size = parts[0].size();
            let (width, rest) = (size[0], &size[1..]);
            let split = [&[heads, width / heads], rest].concat();
            let parts: Vec<Tensor> = parts.iter().map(|p| p.reshape(&split)).collect();
            Tensor::stack(&parts, 1).reshape([&[3 * width], rest].concat())
        }
    }
}

/// Rearranges one axis of channels; `back` undoes it.
fn rearrange(x: &Tensor, dim: i64, channels: Channels, back: bool) -> Result<Tensor> {
    let count = x.size()[dim as usize];
    Ok(match channels {
        Channels::Same => x.shallow_clone(),
        Channels::Reverse => x.flip([dim]),
        Channels::Pixels { colours } => {
            ensure!(
                colours > 0 && count % colours == 0,
                "{count} values cannot be pixels of {colours} colours"
            );
            let pixels = count / colours;
            let source: Vec<i64> = if back {
                (0..count)
                    .map(|c| (colours - 1 - c % colours) * pixels + c / colours)
                    .collect()
            } else {
                (0..count)
                    .map(|c| c % pixels * colours + colours - 1 - c / pixels)
                    .collect()
            };
            x.index_select(dim, &Tensor::from_slice(&source))
        }
        Channels::Regroup { groups } => {
            ensure!(
                groups > 0 && count % groups == 0,
                "{count} channels cannot be in {groups} groups"
            );
            let each = count / groups;
            let source: Vec<i64> = if back {
                (0..count).map(|c| c % groups * each + c / groups).collect()
            } else {
                (0..count).map(|c| c % each * groups + c / each).collect()
            };
            x.index_select(dim, &Tensor::from_slice(&source))
        }
    })
}

/// Sines and cosines of t f_k, interleaved, in f32 step by step as PyTorch code computes them.
fn sine_table(timesteps: i64, dim: i64) -> Tensor {
    let f32_cpu = (Kind::Float, Device::Cpu);
    let exponents = Tensor::arange_start_step(0, dim, 2, f32_cpu) / dim as f64 * 10_000f64.ln();
    let angles = Tensor::arange(timesteps, f32_cpu).unsqueeze(1) * (-exponents).exp().unsqueeze(0);
    Tensor::stack(&[angles.sin(), angles.cos()], -1).reshape([timesteps, dim])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn numbers(shape: &[i64]) -> Tensor {
        Tensor::arange(shape.iter().product::<i64>(), (Kind::Float, Device::Cpu)).reshape(shape)
    }

    #[test]
    fn every_form_comes_back_bit_for_bit() {
        let regroup = Channels::Regroup { groups: 4 };
        let pixels = Channels::Pixels { colours: 3 };
        let keras = |output, input, dense_as_conv| Form::Keras {
            output,
            input,
            dense_as_conv,
        };
        let qkv = |order, ones| Form::Qkv {
            heads: 2,
            order,
            ones,
        };
        for (form, shape) in [
            (Form::Same, vec![2, 3]),
            (Form::Pointwise { ones: 2 }, vec![4, 3, 1, 1]),
            (Form::Pointwise { ones: 1 }, vec![4, 3, 1]),
            (qkv(QkvOrder::Legacy, 1), vec![12, 4, 1]),
            (qkv(QkvOrder::Legacy, 1), vec![12]),
            (qkv(QkvOrder::New, 2), vec![12, 4, 1, 1]),
            (Form::InterleavedColumns, vec![3, 6]),
            (keras(regroup, Channels::Reverse, false), vec![3, 3, 3, 8]),
            (keras(regroup, regroup, true), vec![12, 8]),
            (keras(regroup, Channels::Same, false), vec![5, 8]),
            (keras(regroup, Channels::Same, false), vec![8]),
            (keras(Channels::Same, pixels, false), vec![12, 5]),
            (keras(pixels, Channels::Same, false), vec![5, 12]),
        ] {
            let entry = Entry::of("theirs", "ours", form);
            let theirs = numbers(&shape);
            let ours = entry.to_ours(&theirs).unwrap();
            assert_eq!(entry.to_theirs(&ours).unwrap(), theirs, "{entry:?}");
        }
    }

    #[test]
    fn legacy_rows_are_heads_first() {
        let form = Form::Qkv {
            heads: 2,
            order: QkvOrder::Legacy,
            ones: 0,
        };
        // Rows 0-1 are q of head 0, 2-3 k, 4-5 v, 6-7 q of head 1, …
        let ours = Entry::of("qkv", "q", form)
            .to_ours(&numbers(&[12]))
            .unwrap();
        let rows = |i: usize| Vec::<f32>::try_from(&ours[i]).unwrap();
        assert_eq!(rows(0), [0.0, 1.0, 6.0, 7.0]);
        assert_eq!(rows(2), [4.0, 5.0, 10.0, 11.0]);
    }

    #[test]
    fn interleaved_groups_become_contiguous() {
        let form = Form::Keras {
            output: Channels::Regroup { groups: 4 },
            input: Channels::Same,
            dense_as_conv: false,
        };
        // Channels 0 and 4 are group 0 there, so they come first here.
        let ours = Entry::of("gamma", "weight", form)
            .to_ours(&numbers(&[8]))
            .unwrap();
        let order = Vec::<f32>::try_from(&ours[0]).unwrap();
        assert_eq!(order, [0.0, 4.0, 1.0, 5.0, 2.0, 6.0, 3.0, 7.0]);
    }

    #[test]
    fn pixels_of_bgr_become_planes_of_rgb() {
        let form = Form::Keras {
            output: Channels::Pixels { colours: 3 },
            input: Channels::Same,
            dense_as_conv: false,
        };
        // Two pixels there: B 0, G 1, R 2 and B 3, G 4, R 5.
        let ours = Entry::of("kernel", "weight", form)
            .to_ours(&numbers(&[6]))
            .unwrap();
        let order = Vec::<f32>::try_from(&ours[0]).unwrap();
        assert_eq!(order, [2.0, 5.0, 1.0, 4.0, 0.0, 3.0]);
    }

    #[test]
    fn shapes_that_a_form_cannot_have_are_refused_by_name() {
        let cases = [
            (Form::Pointwise { ones: 2 }, vec![4, 3, 3, 3]),
            (Form::Pointwise { ones: 4 }, vec![4]),
            (Form::InterleavedColumns, vec![3, 5]),
            (
                Form::Qkv {
                    heads: 5,
                    order: QkvOrder::Legacy,
                    ones: 1,
                },
                vec![12, 4, 1],
            ),
            (
                Form::SineTable {
                    timesteps: 3,
                    dim: 4,
                },
                vec![3, 5],
            ),
            (
                // The right shape, and 0 to 11 instead of sines.
                Form::SineTable {
                    timesteps: 3,
                    dim: 4,
                },
                vec![3, 4],
            ),
        ];
        for (form, shape) in cases {
            let error = Entry::of("their.key", "ours", form)
                .to_ours(&numbers(&shape))
                .unwrap_err();
            assert!(error.to_string().contains("their.key"), "{error}");
        }
    }
}
