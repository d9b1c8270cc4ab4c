//! What records hold: protocol buffers of TensorFlow's `Event`.
//!
//! Source: `event.proto`, `summary.proto` and `tensor.proto` of
//! <https://github.com/tensorflow/tensorboard/tree/2.21.0/tensorboard/compat/proto>

/// Kinds of fields on the wire.
const VARINT: u64 = 0;
const BYTES_8: u64 = 1;
const LENGTH: u64 = 2;
const BYTES_4: u64 = 5;

/// `DT_STRING`
const STRING: u64 = 7;

/// One record of a file.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// What every file begins with.
    FileVersion,
    /// A start: what an earlier one wrote of this step and later ones does not count any more.
    Start {
        /// The first step that is done from here on.
        step: u64,
    },
    /// Values of a step, by their tags.
    Summary {
        /// Steps done.
        step: u64,
        /// Tags and values.
        values: Vec<(String, Value)>,
    },
}

/// A value to show.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// A point of a curve.
    Scalar(f64),
    /// A histogram.
    Histogram(Histogram),
    /// A whole PNG file, grey or RGB.
    Png(Vec<u8>),
    /// Text in Markdown.
    Text(String),
}

/// Bars side by side.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Histogram {
    /// Where the first bar begins.
    pub start: f64,
    /// Where each bar ends.
    pub ends: Vec<f64>,
    /// How high each is.
    pub heights: Vec<f64>,
}

impl Event {
    /// As a protocol buffer, of this time in seconds since 1970; `None` for a summary without a value that can be shown.
    pub(super) fn encode(&self, wall_time: f64) -> Option<Vec<u8>> {
        let mut event = Message::default();
        event.double(1, wall_time);
        match self {
            Event::FileVersion => event.bytes(3, b"brain.Event:2"),
            Event::Start { step } => {
                event.varint(2, *step);
                let mut log = Message::default();
                log.varint(1, 1);
                event.bytes(7, &log.0);
            }
            Event::Summary { step, values } => {
                let mut summary = Message::default();
                for (tag, value) in values {
                    if let Some(value) = value.encode(tag) {
                        summary.bytes(1, &value);
                    }
                }
                if summary.0.is_empty() {
                    return None;
                }
                event.varint(2, *step);
                event.bytes(5, &summary.0);
            }
        }
        Some(event.0)
    }
}

impl Value {
    /// `None` for a file that is no PNG, or of another kind than a run writes.
    fn encode(&self, tag: &str) -> Option<Vec<u8>> {
        let mut value = Message::default();
        value.bytes(1, tag.as_bytes());
        match self {
            Value::Scalar(number) => value.float(2, *number as f32),
            Value::Histogram(histogram) => value.bytes(5, &histogram.encode()),
            Value::Png(png) => {
                let [height, width, channels] = png_header(png)?;
                let mut image = Message::default();
                image.varint(1, height);
                image.varint(2, width);
                image.varint(3, channels);
                image.bytes(4, png);
                value.bytes(4, &image.0);
            }
            Value::Text(text) => {
                let mut tensor = Message::default();
                tensor.varint(1, STRING);
                // A scalar: a shape without dimensions.
                tensor.bytes(2, &[]);
                tensor.bytes(8, text.as_bytes());
                value.bytes(8, &tensor.0);
                let mut plugin = Message::default();
                plugin.bytes(1, b"text");
                let mut metadata = Message::default();
                metadata.bytes(1, &plugin.0);
                value.bytes(9, &metadata.0);
            }
        }
        Some(value.0)
    }
}

impl Histogram {
    fn encode(&self) -> Vec<u8> {
        let begins = std::iter::once(&self.start).chain(&self.ends);
        let middles = begins.zip(&self.ends).map(|(a, b)| (a + b) / 2.0);
        let moment = |power: i32| -> f64 {
            let bars = middles.clone().zip(&self.heights);
            bars.map(|(middle, height)| height * middle.powi(power))
                .sum()
        };
        let mut histogram = Message::default();
        histogram.double(1, self.start);
        histogram.double(2, self.ends.last().copied().unwrap_or(self.start));
        for (field, power) in [(3, 0), (4, 1), (5, 2)] {
            histogram.double(field, moment(power));
        }
        histogram.doubles(6, &self.ends);
        histogram.doubles(7, &self.heights);
        histogram.0
    }
}

/// Height, width and channels of a PNG file that is grey or RGB, 8 bits each.
fn png_header(png: &[u8]) -> Option<[u64; 3]> {
    let header = png.strip_prefix(b"\x89PNG\r\n\x1a\n\0\0\0\x0dIHDR")?;
    let number = |at: usize| Some(u32::from_be_bytes(header.get(at..at + 4)?.try_into().ok()?));
    let (width, height) = (number(0)?, number(4)?);
    let channels = match header.get(8..10)? {
        [8, 0] => 1,
        [8, 2] => 3,
        _ => return None,
    };
    Some([height.into(), width.into(), channels])
}

/// A protocol buffer that is being written.
#[derive(Debug, Default)]
struct Message(Vec<u8>);

impl Message {
    fn number(&mut self, mut number: u64) {
        while number >= 0x80 {
            self.0.push(number as u8 | 0x80);
            number >>= 7;
        }
        self.0.push(number as u8);
    }

    fn key(&mut self, field: u64, kind: u64) {
        self.number(field << 3 | kind);
    }

    fn varint(&mut self, field: u64, number: u64) {
        self.key(field, VARINT);
        self.number(number);
    }

    fn double(&mut self, field: u64, number: f64) {
        self.key(field, BYTES_8);
        self.0.extend(number.to_le_bytes());
    }

    fn float(&mut self, field: u64, number: f32) {
        self.key(field, BYTES_4);
        self.0.extend(number.to_le_bytes());
    }

    fn bytes(&mut self, field: u64, bytes: &[u8]) {
        self.key(field, LENGTH);
        self.number(bytes.len() as u64);
        self.0.extend(bytes);
    }

    fn doubles(&mut self, field: u64, numbers: &[f64]) {
        let packed: Vec<u8> = numbers.iter().flat_map(|n| n.to_le_bytes()).collect();
        self.bytes(field, &packed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_take_as_many_bytes_as_they_need() {
        let mut message = Message::default();
        message.varint(2, 300);
        // The example of <https://protobuf.dev/programming-guides/encoding/>, in another field.
        assert_eq!(message.0, [0x10, 0xac, 0x02]);
        message.bytes(31, b"ab");
        assert_eq!(message.0[3..], [0xfa, 0x01, 2, b'a', b'b']);
    }

    #[test]
    fn only_images_that_a_run_writes_are_shown() {
        let mut png = b"\x89PNG\r\n\x1a\n\0\0\0\x0dIHDR\0\0\x01\0\0\0\0\x07\x08\x02".to_vec();
        assert_eq!(png_header(&png), Some([7, 256, 3]));
        assert_eq!(png_header(&png[..25]), None);
        png[24] = 16;
        assert_eq!(png_header(&png), None);
        let event = |value| Event::Summary {
            step: 1,
            values: vec![("a".to_owned(), value)],
        };
        assert_eq!(event(Value::Png(b"no image".to_vec())).encode(0.0), None);
        assert!(event(Value::Scalar(1.0)).encode(0.0).is_some());
    }

    #[test]
    fn a_histogram_says_its_moments() {
        let bars = Histogram {
            start: 0.0,
            ends: vec![1.0, 3.0],
            heights: vec![2.0, 4.0],
        };
        let encoded = bars.encode();
        // Four doubles and a fifth, each with a byte before: min, max, num, sum, sum of squares.
        let double =
            |at: usize| f64::from_le_bytes(encoded[9 * at + 1..9 * at + 9].try_into().unwrap());
        let found = [0, 1, 2, 3, 4].map(double);
        assert_eq!(
            found,
            [0.0, 3.0, 6.0, 2.0 * 0.5 + 4.0 * 2.0, 2.0 * 0.25 + 4.0 * 4.0]
        );
    }
}
