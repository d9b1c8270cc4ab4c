//! Output of sampled images: as a grid, as separate files, as a tensor.

use std::path::PathBuf;

use anyhow::Result;
use clap::Args;
use ndarray::{Array3, Array4, Axis, concatenate};
use tch::{Device, Kind, Tensor};

use crate::cli::made_with::MadeWith;
use crate::cli::out::say;
use crate::cli::outputs::{ForceArg, Outputs, image_name, path_or_stdout};
use crate::formats::safetensors;
use crate::images::to_array;
use crate::report::{grid, grid_of_columns, with_names, write_png_with};
use crate::text::plural;

/// The grid's name without --out.
const DEFAULT_GRID: &str = "samples.png";

/// Files for images.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Output")]
pub(in crate::cli) struct OutputArgs {
    /// Write a grid of all images [default: samples.png]
    ///
    /// With --separate or --out-tensor there is no default.
    #[arg(short, long, value_name = "FILE.png", value_parser = path_or_stdout())]
    out: Option<PathBuf>,
    /// Write one file per image, from 00000.png
    ///
    /// An interrupted `ddpm sample` goes on where it was when the same command is given again. Several ranks write to
    /// the same folder, which all their hosts must see. Of a class-conditional network, labels.csv lists the classes.
    #[arg(long, value_name = "DIR")]
    pub(in crate::cli) separate: Option<PathBuf>,
    /// Write the images as a tensor: `pictures` [N, C, H, W] f32 in [-1, 1]
    #[arg(long, value_name = "FILE.safetensors", value_parser = path_or_stdout(), hide_short_help = true)]
    out_tensor: Option<PathBuf>,
    #[command(flatten)]
    pub(in crate::cli) force: ForceArg,
}

/// Collects and writes images, batch by batch.
#[derive(Debug)]
pub(in crate::cli) struct ImageOutput<'a> {
    places: &'a OutputArgs,
    /// The images of each batch, for the grid.
    images: Vec<Array4<u8>>,
    numbers: Vec<Tensor>,
    /// Names of the grid's rows, if image `i` is to be in row `i` modulo their number.
    rows: Vec<String>,
    /// What the images are made with, if their files are to say it.
    made_with: Option<&'a MadeWith>,
}

impl OutputArgs {
    /// Names the files of `number` images.
    pub(in crate::cli) fn declare(&self, number: u64, outputs: &mut Outputs) {
        if let Some(dir) = &self.separate {
            outputs.fills("--separate", dir, number);
        }
        if let Some(out) = self.grid_path() {
            outputs.writes("--out", &out, &["png"], Some(DEFAULT_GRID));
        }
        if let Some(out) = &self.out_tensor {
            outputs.writes("--out-tensor", out, &["safetensors"], None);
        }
    }

    /// Nothing written yet. The PNG files say what their images are `made_with`, if it is there.
    pub(in crate::cli) fn open<'a>(&'a self, made_with: Option<&'a MadeWith>) -> ImageOutput<'a> {
        ImageOutput {
            places: self,
            images: Vec::new(),
            numbers: Vec::new(),
            rows: Vec::new(),
            made_with,
        }
    }

    /// True if a grid is made.
    pub(in crate::cli) fn has_grid(&self) -> bool {
        self.grid_path().is_some()
    }

    /// The files that hold all images.
    pub(in crate::cli) fn files(&self) -> Vec<PathBuf> {
        self.grid_path()
            .into_iter()
            .chain(self.out_tensor.clone())
            .collect()
    }

    /// What is kept of all images for the files that hold them: their numbers, their pixels, or nothing.
    pub(in crate::cli) fn kept_kind(&self) -> Option<Kind> {
        match (&self.out_tensor, self.grid_path()) {
            (Some(_), _) => Some(Kind::Float),
            (None, Some(_)) => Some(Kind::Uint8),
            (None, None) => None,
        }
    }

    fn grid_path(&self) -> Option<PathBuf> {
        let elsewhere = self.separate.is_some() || self.out_tensor.is_some();
        let default = || (!elsewhere).then(|| DEFAULT_GRID.into());
        self.out.clone().or_else(default)
    }
}

impl ImageOutput<'_> {
    /// Adds a batch, `[N, C, H, W]` f32 in [-1, 1], the images from number `first` on. Separate files are written at
    /// once, so that an interrupted command keeps its finished images.
    ///
    /// # Errors
    /// A file that cannot be written.
    pub(in crate::cli) fn take(&mut self, first: u64, x_0: &Tensor) -> Result<()> {
        self.write_separate(first, x_0)?;
        self.keep(x_0);
        Ok(())
    }

    /// The separate files of [`take`](ImageOutput::take) alone.
    ///
    /// # Errors
    /// A file that cannot be written.
    pub(in crate::cli) fn write_separate(&self, first: u64, x_0: &Tensor) -> Result<()> {
        if let Some(dir) = &self.places.separate {
            fs_err::create_dir_all(dir)?;
            for (number, image) in (first..).zip(to_array(x_0).outer_iter()) {
                let settings = self
                    .made_with
                    .map(|made| made.of_image(number))
                    .transpose()?;
                write_png_with(&dir.join(image_name(number)), image, settings.as_deref())?;
            }
        }
        Ok(())
    }

    /// Adds the next batch to the files that hold all images: f32, or u8 where the numbers are not wanted.
    pub(in crate::cli) fn keep(&mut self, images: &Tensor) {
        if self.places.out_tensor.is_some() {
            self.numbers.push(images.to_device(Device::Cpu));
        }
        if self.places.grid_path().is_some() {
            self.images.push(to_array(images));
        }
    }

    /// Has the grid show the images in these rows, of which each next image is in the next. They must fill them.
    pub(in crate::cli) fn by_rows(&mut self, names: &[String]) {
        self.rows = names.to_vec();
    }

    /// Writes the files that hold all images, `number` of them, and prints the names of all files; returns the grid. `about`
    /// describes the tensor.
    ///
    /// # Errors
    /// A file that cannot be written.
    pub(in crate::cli) fn finish(self, number: u64, about: String) -> Result<Option<Array3<u8>>> {
        if let Some(out) = &self.places.out_tensor {
            let tensors = [("pictures".to_owned(), Tensor::cat(&self.numbers, 0))];
            safetensors::write(out, ("ddpm-sample".to_owned(), about), &tensors)?;
        }
        if let Some(dir) = &self.places.separate {
            say(&format!("{} in {}", plural(number, "image"), dir.display()));
        }
        if let Some(out) = self.places.grid_path() {
            let views: Vec<_> = self.images.iter().map(Array4::view).collect();
            let images = concatenate(Axis(0), &views)?;
            let figure = match self.rows.is_empty() {
                true => grid(images.view()),
                false => rows_with_names(&images, &self.rows),
            };
            let settings = self.made_with.map(MadeWith::of_all).transpose()?;
            write_png_with(&out, figure.view(), settings.as_deref())?;
            say(&format!("{} in {}", plural(number, "image"), out.display()));
            return Ok(Some(figure));
        }
        Ok(None)
    }
}

/// A row for each name, of every image whose number is that of the row modulo their number.
fn rows_with_names(images: &Array4<u8>, names: &[String]) -> Array3<u8> {
    let (number, rows) = (images.len_of(Axis(0)), names.len());
    let order: Vec<usize> = (0..rows)
        .flat_map(|row| (row..number).step_by(rows))
        .collect();
    let images = images.select(Axis(0), &order);
    with_names(&grid_of_columns(images.view(), number / rows), names)
}
