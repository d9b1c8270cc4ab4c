//! The header of an array: magic, version, and a Python dict of its type, order and shape.

use std::fmt::{self, Write as _};
use std::io::{self, Read};

/// First bytes of an array.
pub(super) const NPY_MAGIC: &[u8] = b"\x93NUMPY";
/// Longest header that is read, as in NumPy; that of a plain array takes 118 bytes.
const MAX_HEADER_BYTES: usize = 10_000;
/// Most dimensions, as in NumPy.
const MAX_DIMS: usize = 64;
/// Data begin at a multiple of this.
const ALIGNMENT: usize = 64;

/// Type of an array's elements.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ElementType {
    F64,
    F32,
    I64,
    I32,
    U8,
    /// Text of so many characters, each four bytes.
    Text(usize),
}

impl ElementType {
    /// The type and whether its bytes are big-endian, from NumPy's description.
    fn parse(descr: &str) -> Option<(Self, bool)> {
        let big_endian = match descr.chars().next()? {
            '<' | '|' => false,
            '>' => true,
            _ => return None,
        };
        let found = match &descr[1..] {
            "f8" => Self::F64,
            "f4" => Self::F32,
            "i8" => Self::I64,
            "i4" => Self::I32,
            "u1" => Self::U8,
            text => Self::Text(text.strip_prefix('U')?.parse().ok()?),
        };
        Some((found, big_endian))
    }

    /// Bytes one element takes.
    pub(super) fn size_bytes(self) -> u64 {
        match self {
            Self::F64 | Self::I64 => 8,
            Self::F32 | Self::I32 => 4,
            Self::U8 => 1,
            Self::Text(chars) => (chars as u64).saturating_mul(4),
        }
    }
}

impl fmt::Display for ElementType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::F64 => "float64",
            Self::F32 => "float32",
            Self::I64 => "int64",
            Self::I32 => "int32",
            Self::U8 => "uint8",
            Self::Text(_) => "text",
        })
    }
}

/// What an array's header says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) element: ElementType,
    pub(super) big_endian: bool,
    /// First index fastest.
    pub(super) fortran: bool,
    pub(super) shape: Vec<usize>,
    /// Bytes before the data.
    pub(super) bytes: u64,
}

/// Reasons why bytes are not a header.
#[derive(Debug)]
pub(super) enum Problem {
    Io(io::Error),
    /// What is wrong with the header.
    Text(String),
    /// An element type that is not read.
    ElementType(String),
}

impl Header {
    /// Reads up to the first byte of the data.
    pub(super) fn read(reader: &mut dyn Read) -> Result<Self, Problem> {
        let mut start = [0; 8];
        exactly(reader, &mut start)?;
        if !start.starts_with(NPY_MAGIC) {
            return Err(Problem::Text("does not start with \\x93NUMPY".into()));
        }
        let (text_bytes, start_bytes) = match start[6] {
            1 => {
                let mut length = [0; 2];
                exactly(reader, &mut length)?;
                (usize::from(u16::from_le_bytes(length)), 10)
            }
            2 | 3 => {
                let mut length = [0; 4];
                exactly(reader, &mut length)?;
                (u32::from_le_bytes(length) as usize, 12)
            }
            version => {
                let problem = format!("has version {version}, wanted 1, 2 or 3");
                return Err(Problem::Text(problem));
            }
        };
        if text_bytes > MAX_HEADER_BYTES {
            let problem =
                format!("takes {text_bytes} bytes, and a plain array's at most {MAX_HEADER_BYTES}");
            return Err(Problem::Text(problem));
        }
        let mut text = vec![0; text_bytes];
        exactly(reader, &mut text)?;
        let mut header = Self::parse(&String::from_utf8_lossy(&text))?;
        header.bytes = (start_bytes + text_bytes) as u64;
        Ok(header)
    }

    fn parse(text: &str) -> Result<Self, Problem> {
        let mut dict = Dict { rest: text };
        let (mut descr, mut fortran, mut shape) = (None, None, None);
        dict.expect('{')?;
        while !dict.take('}') {
            let key = dict.string()?;
            dict.expect(':')?;
            match key {
                "descr" => descr = Some(dict.descr()?),
                "fortran_order" => fortran = Some(dict.bool()?),
                "shape" => shape = Some(dict.shape()?),
                _ => return Err(dict.problem("a key that NumPy does not write")),
            }
            if !dict.take(',') && !dict.rest.trim_start().starts_with('}') {
                return Err(dict.problem("a comma"));
            }
        }
        let (Some(descr), Some(fortran), Some(shape)) = (descr, fortran, shape) else {
            return Err(dict.problem("descr, fortran_order and shape"));
        };
        let (element, big_endian) =
            ElementType::parse(descr).ok_or_else(|| Problem::ElementType(format!("{descr:?}")))?;
        Ok(Self {
            element,
            big_endian,
            fortran,
            shape,
            bytes: 0,
        })
    }

    /// Bytes that the data take; `None` if more than a machine can address, also in parts of an empty array.
    pub(super) fn data_bytes(&self) -> Option<u64> {
        let bytes = self
            .shape
            .iter()
            .try_fold(self.element.size_bytes(), |bytes, &dim| {
                bytes.checked_mul(dim.max(1) as u64)
            })
            .filter(|&bytes| isize::try_from(bytes).is_ok())?;
        Some(if self.shape.contains(&0) { 0 } else { bytes })
    }

    /// The header as NumPy writes it, for little-endian elements in C order.
    pub(super) fn write(element: ElementType, shape: &[usize]) -> Vec<u8> {
        let descr = match element {
            ElementType::F64 => "<f8".into(),
            ElementType::F32 => "<f4".into(),
            ElementType::I64 => "<i8".into(),
            ElementType::I32 => "<i4".into(),
            ElementType::U8 => "|u1".into(),
            ElementType::Text(chars) => format!("<U{chars}"),
        };
        let mut dims = String::new();
        for dim in shape {
            write!(dims, "{dim}, ").expect("a string grows");
        }
        let comma = if shape.len() == 1 { "," } else { "" };
        let dims = dims.trim_end_matches(", ");
        let mut text =
            format!("{{'descr': '{descr}', 'fortran_order': False, 'shape': ({dims}{comma}), }}");
        // Magic, version and length take 10 bytes, the line break one.
        let padded = (text.len() + 11).next_multiple_of(ALIGNMENT) - 11;
        text.extend(std::iter::repeat_n(' ', padded - text.len()));
        text.push('\n');
        let length = u16::try_from(text.len()).expect("a shape of a few dimensions");
        [NPY_MAGIC, &[1, 0], &length.to_le_bytes(), text.as_bytes()].concat()
    }
}

fn exactly(reader: &mut dyn Read, bytes: &mut [u8]) -> Result<(), Problem> {
    reader.read_exact(bytes).map_err(Problem::Io)
}

/// A Python dict of the three values of a header. Nothing in it is nested, so nothing here recurses.
struct Dict<'a> {
    rest: &'a str,
}

impl<'a> Dict<'a> {
    fn take(&mut self, wanted: char) -> bool {
        match self.rest.trim_start().strip_prefix(wanted) {
            Some(rest) => {
                self.rest = rest;
                true
            }
            None => false,
        }
    }

    fn expect(&mut self, wanted: char) -> Result<(), Problem> {
        match self.take(wanted) {
            true => Ok(()),
            false => Err(self.problem(&format!("{wanted:?}"))),
        }
    }

    fn string(&mut self) -> Result<&'a str, Problem> {
        let text = self.rest.trim_start();
        let quote = text.chars().next().filter(|c| matches!(c, '\'' | '"'));
        let quoted = quote.and_then(|quote| text[1..].split_once(quote));
        let Some((string, rest)) = quoted else {
            return Err(self.problem("a quoted word"));
        };
        self.rest = rest;
        Ok(string)
    }

    /// The type; records are lists.
    fn descr(&mut self) -> Result<&'a str, Problem> {
        if self.rest.trim_start().starts_with('[') {
            return Err(Problem::ElementType("a record".into()));
        }
        self.string()
    }

    fn bool(&mut self) -> Result<bool, Problem> {
        let text = self.rest.trim_start();
        for (word, value) in [("True", true), ("False", false)] {
            if let Some(rest) = text.strip_prefix(word) {
                self.rest = rest;
                return Ok(value);
            }
        }
        Err(self.problem("True or False"))
    }

    fn shape(&mut self) -> Result<Vec<usize>, Problem> {
        self.expect('(')?;
        let mut shape = Vec::new();
        while !self.take(')') {
            let text = self.rest.trim_start();
            let digits = text.len() - text.trim_start_matches(|c: char| c.is_ascii_digit()).len();
            let Ok(dim) = text[..digits].parse() else {
                return Err(self.problem("a length"));
            };
            shape.push(dim);
            // Python 2 wrote its long integers so.
            self.rest = text[digits..].trim_start_matches('L');
            let ends = self.rest.trim_start().starts_with(')');
            if (!self.take(',') && !ends) || shape.len() > MAX_DIMS {
                return Err(self.problem("a comma, or the end of a shape"));
            }
        }
        Ok(shape)
    }

    fn problem(&self, wanted: &str) -> Problem {
        let found: String = self.rest.trim_start().chars().take(20).collect();
        Problem::Text(format!("reads {found:?} where {wanted} should be"))
    }
}
