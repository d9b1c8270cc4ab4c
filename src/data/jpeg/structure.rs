//! The markers of a JPEG file: its frame, its scans, its metadata.

use std::ops::Range;

/// Maximum number of scans. Each can go over the whole image with a few bytes, so a short file could take hours;
/// encoders write about ten.
const MAX_SCANS: usize = 100;

/// What the markers of a file say. It is complete: no scan is missing.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::data) struct Structure {
    pub(in crate::data) width: usize,
    pub(in crate::data) height: usize,
    /// Samples of a pixel in the file: 1, 3 or 4.
    pub(in crate::data) channels: usize,
    /// True if each sample stands for at most two pixels across and down. Otherwise a fraction of the size loses more
    /// colour than the fraction says: one sample of 4:1:1 at a quarter stands for 16 pixels.
    pub(in crate::data) can_shrink: bool,
    /// Memory for the coefficients of all scans, bytes; 0 if there is one scan only, which is decoded as it is read.
    pub(in crate::data) coefficient_bytes: u64,
    /// Contents of the APP1 segments: Exif and XMP.
    pub(in crate::data) metadata: Vec<Range<usize>>,
}

/// The frame header.
struct Frame {
    width: usize,
    height: usize,
    progressive: bool,
    components: Vec<Component>,
}

struct Component {
    id: u8,
    /// Blocks of a unit, across and down.
    sampling: (usize, usize),
    /// Bits of each coefficient that are still to come, in zigzag order; `None` before its first scan.
    missing: [Option<u8>; 64],
}

impl Structure {
    /// Reads the markers up to the end of the image or of the file.
    ///
    /// # Errors
    /// In words: kinds of files that are not read, missing scans, and contradictions between markers.
    pub(in crate::data) fn read(file: &[u8]) -> Result<Self, String> {
        let mut frame: Option<Frame> = None;
        let (mut scans, mut metadata) = (0, Vec::new());
        let mut at = 2; // after the start marker, by which the format was recognised
        while let Some((marker, body)) = next_segment(file, &mut at)? {
            let content = &file[body.clone()];
            match marker {
                0xC0..=0xC2 if frame.is_some() => return Err("two frame headers".to_owned()),
                0xC0..=0xC2 => frame = Some(Frame::read(content, marker == 0xC2)?),
                0xC4 | 0xC8 | 0xCC => {}
                0xC9..=0xCB | 0xCD..=0xCF => return Err("arithmetic coding is not read".to_owned()),
                0xC3 | 0xC5..=0xC7 => {
                    return Err("lossless and hierarchical JPEG are not read".to_owned());
                }
                0xDA => {
                    scans += 1;
                    if scans > MAX_SCANS {
                        return Err(format!("more than {MAX_SCANS} scans"));
                    }
                    let frame = frame.as_mut().ok_or("a scan before the frame header")?;
                    frame
                        .add_scan(content)
                        .ok_or("a scan that does not fit the frame")?;
                    at = end_of_scan(file, at);
                }
                0xE1 => metadata.push(body),
                _ => {}
            }
        }
        let frame = frame.ok_or("no frame header")?;
        frame.check_complete()?;
        Ok(Self {
            width: frame.width,
            height: frame.height,
            channels: frame.components.len(),
            can_shrink: frame.is_fine(),
            coefficient_bytes: if scans > 1 {
                frame.coefficient_bytes()
            } else {
                0
            },
            metadata,
        })
    }
}

/// The next marker with a length, and where its content lies; `None` at the end of the image or of the file.
fn next_segment(file: &[u8], at: &mut usize) -> Result<Option<(u8, Range<usize>)>, String> {
    loop {
        // Bytes that belong to no segment are left to libjpeg, which counts them.
        let Some(skipped) = file
            .get(*at..)
            .and_then(|rest| rest.iter().position(|b| *b == 0xFF))
        else {
            return Ok(None);
        };
        *at += skipped + 1;
        match file.get(*at) {
            None | Some(0xD9) => return Ok(None),
            // Padding, a stray data byte, and markers without a length.
            Some(0xFF) => continue,
            Some(0x00 | 0x01 | 0xD0..=0xD8) => *at += 1,
            Some(&marker) => {
                let length = file.get(*at + 1..*at + 3).ok_or("cut short in a marker")?;
                let length = usize::from(u16::from_be_bytes([length[0], length[1]]));
                let body = *at + 3..*at + 1 + length;
                if length < 2 || body.end > file.len() {
                    return Err("cut short in a marker, or a marker of a wrong length".to_owned());
                }
                *at = body.end;
                return Ok(Some((marker, body)));
            }
        }
    }
}

/// Where the compressed data from `at` on ends: at the next marker other than a restart.
fn end_of_scan(file: &[u8], mut at: usize) -> usize {
    while let Some(skipped) = file[at..].iter().position(|byte| *byte == 0xFF) {
        at += skipped;
        match file.get(at + 1) {
            Some(0x00 | 0xD0..=0xD7) => at += 2,
            Some(0xFF) => at += 1,
            _ => return at,
        }
    }
    file.len()
}

impl Frame {
    fn read(content: &[u8], progressive: bool) -> Result<Self, String> {
        let [bits, h1, h0, w1, w0, count, specs @ ..] = content else {
            return Err("cut short in the frame header".to_owned());
        };
        if *bits != 8 {
            return Err(format!("{bits} bits a sample are not read, only 8"));
        }
        if !matches!(count, 1 | 3 | 4) || specs.len() != 3 * usize::from(*count) {
            return Err(format!("{count} colours are not read, only 1, 3 and 4"));
        }
        let (width, height) = (
            u16::from_be_bytes([*w1, *w0]),
            u16::from_be_bytes([*h1, *h0]),
        );
        if width == 0 || height == 0 {
            return Err(format!("the image is {width}x{height} pixels"));
        }
        let component = |spec: &[u8]| Component {
            id: spec[0],
            sampling: (usize::from(spec[1] >> 4), usize::from(spec[1] & 15)),
            missing: [None; 64],
        };
        let components: Vec<_> = specs.chunks_exact(3).map(component).collect();
        let mut factors = components.iter().flat_map(|c| [c.sampling.0, c.sampling.1]);
        if factors.any(|factor| !(1..=4).contains(&factor)) {
            return Err("sampling factors are not 1 to 4".to_owned());
        }
        Ok(Self {
            width: usize::from(width),
            height: usize::from(height),
            progressive,
            components,
        })
    }

    /// Notes which coefficients a scan brings; `None` if it contradicts the frame.
    fn add_scan(&mut self, content: &[u8]) -> Option<()> {
        let (count, rest) = content.split_first()?;
        let count = usize::from(*count);
        let (components, band) = rest.split_at_checked(2 * count)?;
        let &[first, last, bits] = band else {
            return None;
        };
        let (band, missing) = match self.progressive {
            true => (usize::from(first)..usize::from(last) + 1, bits & 15),
            false => (0..64, 0),
        };
        for selector in components.chunks_exact(2) {
            let id = selector[0];
            let component = self.components.iter_mut().find(|c| c.id == id)?;
            component.missing.get_mut(band.clone())?.fill(Some(missing));
        }
        Some(())
    }

    fn check_complete(&self) -> Result<(), String> {
        let mut wanted = self.components.iter().flat_map(|c| c.missing);
        match wanted.all(|missing| missing == Some(0)) {
            true => Ok(()),
            false => Err("cut short: the last scans are missing".to_owned()),
        }
    }

    /// Largest sampling factors of a component, across and down.
    fn most(&self) -> (usize, usize) {
        let most = |of: fn(&Component) -> usize| self.components.iter().map(of).max().unwrap_or(1);
        (most(|c| c.sampling.0), most(|c| c.sampling.1))
    }

    fn is_fine(&self) -> bool {
        let (across, down) = self.most();
        let pixels = |most: usize, factor: usize| most == factor || most == 2 * factor;
        let mut components = self.components.iter();
        components.all(|c| pixels(across, c.sampling.0) && pixels(down, c.sampling.1))
    }

    /// Two bytes for each coefficient of each block, the units of the last row and column whole.
    fn coefficient_bytes(&self) -> u64 {
        let (across, down) = self.most();
        let units = self.width.div_ceil(8 * across) * self.height.div_ceil(8 * down);
        let blocks: usize = self
            .components
            .iter()
            .map(|c| c.sampling.0 * c.sampling.1)
            .sum();
        (units * blocks * 64 * 2) as u64
    }
}
