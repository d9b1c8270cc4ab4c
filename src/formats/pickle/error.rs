//! Errors of pickles.

use std::io;

pub(super) type Result<T> = std::result::Result<T, PickleError>;

/// Why a pickle is refused.
#[derive(Debug, thiserror::Error)]
pub enum PickleError {
    /// The input ended inside an instruction.
    #[error("the pickle breaks off at byte {at}; the file is cut short: copy or download it again")]
    Truncated {
        /// Bytes of the pickle that were there.
        at: u64,
    },
    /// The input could not be read.
    #[error("reading failed at byte {at}")]
    Io {
        /// Bytes of the pickle read before.
        at: u64,
        /// The system's error.
        source: io::Error,
    },
    /// Longer than any checkpoint's pickle.
    #[error(
        "the pickle is longer than {limit} bytes, which no checkpoint needs; save the weights alone"
    )]
    TooLong {
        /// Most bytes that are read.
        limit: u64,
    },
    /// More objects than any checkpoint has, possibly by repeating a few.
    #[error(
        "the pickle makes more than {limit} objects, which no checkpoint needs; save the weights alone"
    )]
    TooManyValues {
        /// Most objects that are made.
        limit: usize,
    },
    /// Nested too deep, or containing itself.
    #[error("the pickle nests deeper than {limit}, or contains itself; save the weights alone")]
    TooDeep {
        /// Deepest nesting that is read.
        limit: usize,
    },
    /// A protocol other than 2 to 5.
    #[error(
        "pickle protocol {found} at byte {at}, wanted 2 to 5; save it again with a current torch"
    )]
    Protocol {
        /// The protocol.
        found: u8,
        /// Position in the pickle.
        at: u64,
    },
    /// An instruction outside the whitelist.
    #[error(
        "pickle instruction {opcode:#04x} at byte {at} is not one that torch.save writes for tensors and \
         plain data; in Python, save the weights alone: torch.save(model.state_dict(), FILE)"
    )]
    Opcode {
        /// The instruction.
        opcode: u8,
        /// Position in the pickle.
        at: u64,
    },
    /// Text that is not UTF-8.
    #[error("a string before byte {at} is not UTF-8; rename the key and save the file again")]
    NotUtf8 {
        /// Position in the pickle.
        at: u64,
        /// The reason.
        source: std::str::Utf8Error,
    },
    /// A duplicate key in a dict; Python would keep the last, and `torch.save` never writes one.
    #[error("the key {key} is in one dict twice; do not trust this file")]
    DuplicateKey {
        /// The key, as Python would print it.
        key: String,
    },
    /// An instruction that does not fit what came before it.
    #[error(
        "before byte {at} the pickle should hold {wanted}; the file is damaged or not torch.save's"
    )]
    Malformed {
        /// Position in the pickle.
        at: u64,
        /// The expected element.
        wanted: &'static str,
    },
}
