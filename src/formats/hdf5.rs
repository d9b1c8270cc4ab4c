//! Weights as Keras 2 saves them: a small reader of one dialect of HDF5.
//!
//! Keras, through h5py, writes superblock version 0, groups with symbol tables and each weight as one
//! uncompressed piece. Nothing else is read, and errors name what was found. `hdf5-reader` 0.12
//! reads all of HDF5, but a file of 2 MB makes it ask for more than 4 GB. Here memory stays in
//! proportion to the file.
//!
//! - `source`: reads within a budget
//! - `group`: the names in a group
//! - `object`: the object behind a name
//!
//! Source: "HDF5 File Format Specification Version 2.0", sections II.A, III.A.1, III.B, III.D, IV.A
//! <https://support.hdfgroup.org/documentation/hdf5/latest/_f_m_t2.html>

use std::cmp::Ordering;
use std::collections::HashSet;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};

use super::host_tensor::{Dtype, HostTensor, byte_len};
use object::Object;
use source::{Fields, Source};

mod group;
mod object;
mod source;
#[cfg(test)]
mod tests;

/// First bytes of an HDF5 file.
pub(crate) const MAGIC: [u8; 8] = *b"\x89HDF\r\n\x1a\n";
/// Deepest nesting of groups; Keras nests four.
const MAX_DEPTH: usize = 16;

/// An open file of weights; its tensors are read one at a time.
#[derive(Debug)]
pub(crate) struct Hdf5File {
    path: PathBuf,
    source: Source,
    layers: Vec<String>,
    tree: Vec<(String, Dtype, Vec<usize>)>,
    /// Place and number of bytes of each dataset of `tree`.
    places: Vec<(u64, u64)>,
}

impl Hdf5File {
    /// Reads the file's structure and checks that all data it names are there.
    ///
    /// # Errors
    /// Not HDF5, cut short, damaged, or of another dialect than Keras writes; each names the file.
    pub(crate) fn open(path: &Path) -> Result<Hdf5File> {
        Hdf5File::read_structure(path).with_context(|| format!("cannot read {}", path.display()))
    }

    fn read_structure(path: &Path) -> Result<Hdf5File> {
        let mut source = Source::open(path)?;
        let root = read_superblock(&mut source)?;
        let mut walk = Walk {
            source,
            seen: HashSet::new(),
            layers: Vec::new(),
            found: Vec::new(),
            data_bytes: 0,
        };
        walk.visit("", root, 0)?;
        let Walk {
            source,
            layers,
            mut found,
            ..
        } = walk;
        found.sort_by(|a, b| natural_order(&a.0.0, &b.0.0));
        if let Some(twice) = found.windows(2).find(|pair| pair[0].0.0 == pair[1].0.0) {
            bail!(
                "two datasets of the name {}; the file is damaged",
                twice[0].0.0
            );
        }
        let (tree, places) = found.into_iter().unzip();
        Ok(Hdf5File {
            path: path.to_owned(),
            source,
            layers,
            tree,
            places,
        })
    }

    /// Every dataset's path, such as `conv2d_1/conv2d_1/kernel:0`, element type and shape, in
    /// natural order: `conv2d_2` before `conv2d_10`.
    pub(crate) fn tree(&self) -> &[(String, Dtype, Vec<usize>)] {
        &self.tree
    }

    /// Keras's layers in the model's order, those without weights included; empty if the file does
    /// not list them.
    pub(crate) fn layers(&self) -> &[String] {
        &self.layers
    }

    /// Reads one dataset by its path.
    ///
    /// # Errors
    /// A missing dataset, or a file that became shorter.
    pub(crate) fn read(&self, name: &str) -> Result<HostTensor> {
        let read = || -> Result<HostTensor> {
            let at = self.tree.iter().position(|(path, ..)| path == name);
            let at = at.context("no such dataset")?;
            let (_, dtype, shape) = &self.tree[at];
            let (start, bytes) = self.places[at];
            let data = if bytes == 0 {
                Vec::new()
            } else {
                self.source.bytes(start, bytes)?
            };
            Ok(HostTensor::new(*dtype, shape.clone(), data)?)
        };
        read().with_context(|| format!("cannot read {name} from {}", self.path.display()))
    }
}

/// Checks the superblock; returns where the root group's header is.
fn read_superblock(source: &mut Source) -> Result<u64> {
    let start = source.bytes(0, source.len().min(8))?;
    ensure!(
        start == MAGIC,
        "not an HDF5 file: it starts with {start:02x?}, want {MAGIC:02x?}"
    );
    let block = source.structure(0, 96)?;
    let mut fields = Fields(&block);
    fields.skip(8)?;
    let version = fields.u8()?;
    ensure!(
        version == 0,
        "HDF5 superblock of version {version}, want 0, which h5py writes by default; \
         save the weights again with Keras's save_weights"
    );
    fields.skip(4)?;
    let sizes = (fields.u8()?, fields.u8()?);
    ensure!(
        sizes == (8, 8),
        "offsets and lengths of {sizes:?} bytes, want 8"
    );
    fields.skip(9)?;
    let base = fields.u64()?;
    ensure!(base == 0, "addresses start at byte {base}, want 0");
    fields.skip(8)?;
    let end = fields.u64()?;
    ensure!(
        end <= source.len(),
        "cut short: it has {} of {end} bytes; copy or download it again",
        source.len()
    );
    fields.skip(16)?;
    fields.u64()
}

type Dataset = ((String, Dtype, Vec<usize>), (u64, u64));

/// A walk over all groups.
struct Walk {
    source: Source,
    seen: HashSet<u64>,
    layers: Vec<String>,
    found: Vec<Dataset>,
    data_bytes: u64,
}

impl Walk {
    fn visit(&mut self, path: &str, address: u64, depth: usize) -> Result<()> {
        let shown = if path.is_empty() { "/" } else { path };
        ensure!(
            self.seen.insert(address),
            "{shown} is an object that has another name already (a cycle, or two names for one), \
             which Keras never writes"
        );
        ensure!(
            depth <= MAX_DEPTH,
            "{shown} is nested more than {MAX_DEPTH} deep, which Keras never writes"
        );
        self.source.charge(path.len() as u64)?;
        let object = object::read(&mut self.source, address).with_context(|| shown.to_owned())?;
        match object.group {
            Some((btree, heap)) => {
                let links = group::links(&mut self.source, btree, heap)
                    .with_context(|| shown.to_owned())?;
                for link in links {
                    let below = match path {
                        "" => link.name,
                        _ => format!("{path}/{}", link.name),
                    };
                    self.visit(&below, link.address, depth + 1)?;
                }
            }
            None => self
                .add_dataset(path, &object)
                .with_context(|| shown.to_owned())?,
        }
        if path.is_empty() {
            self.layers = object.layer_names;
        }
        Ok(())
    }

    fn add_dataset(&mut self, path: &str, object: &Object) -> Result<()> {
        let (Some(dtype), Some(shape), Some((start, bytes))) =
            (object.dtype, &object.shape, object.data)
        else {
            bail!("neither a group nor a dataset");
        };
        let wanted = byte_len(dtype, shape)? as u64;
        ensure!(
            bytes == wanted,
            "{dtype} {shape:?} takes {wanted} bytes, but {bytes} by the file; it is damaged"
        );
        let end = start.checked_add(bytes);
        ensure!(
            bytes == 0 || end.is_some_and(|end| end <= self.source.len()),
            "its {bytes} bytes from byte {start} are not all in the file, which has {}; \
             it is damaged, or the weight was never written",
            self.source.len()
        );
        self.data_bytes = self.data_bytes.saturating_add(bytes);
        ensure!(
            self.data_bytes <= self.source.len(),
            "the datasets overlap: together they are longer than the file; it is damaged"
        );
        let dataset = (path.to_owned(), dtype, shape.clone());
        self.found.push((dataset, (start, bytes)));
        Ok(())
    }
}

/// Compares digits in names as numbers.
fn natural_order(a: &str, b: &str) -> Ordering {
    let (mut rest_a, mut rest_b) = (a.as_bytes(), b.as_bytes());
    while let (Some(&x), Some(&y)) = (rest_a.first(), rest_b.first()) {
        let order = if x.is_ascii_digit() && y.is_ascii_digit() {
            take_number(&mut rest_a).cmp(&take_number(&mut rest_b))
        } else {
            (rest_a, rest_b) = (&rest_a[1..], &rest_b[1..]);
            x.cmp(&y)
        };
        if order.is_ne() {
            return order;
        }
    }
    // One begins with the other, or they differ only in leading zeros.
    rest_a.len().cmp(&rest_b.len()).then_with(|| a.cmp(b))
}

/// Splits a number of any length off the front, in a form that compares like the number.
fn take_number<'a>(text: &mut &'a [u8]) -> (usize, &'a [u8]) {
    let end = text.iter().position(|byte| !byte.is_ascii_digit());
    let (digits, rest) = text.split_at(end.unwrap_or(text.len()));
    *text = rest;
    let zeros = digits.iter().take_while(|&&digit| digit == b'0').count();
    (digits.len() - zeros, &digits[zeros..])
}
