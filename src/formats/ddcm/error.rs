//! Errors of `.ddcm` files.

/// A file that is refused, or contents that the format cannot hold.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DdcmError {
    /// A file of another kind.
    #[error("not a .ddcm file: it starts with [{first_bytes}], wanted [44 44 43 4d]")]
    NotDdcm {
        /// Its first bytes, in hexadecimal.
        first_bytes: String,
    },
    /// From a later program.
    #[error(
        "version {version} of the format, this program reads version 1; decode it with a newer ddpm"
    )]
    Newer {
        /// The version it declares.
        version: u8,
    },
    /// The end is missing.
    #[error("cut short: it has {found_bytes} bytes, wanted {wanted}; copy or download it again")]
    Truncated {
        /// Length of the file.
        found_bytes: usize,
        /// Length according to its header, in words if the header itself is cut.
        wanted: String,
    },
    /// Something follows the end.
    #[error("{bytes} bytes after its end, wanted none; copy or download it again")]
    Trailing {
        /// Number of extra bytes.
        bytes: usize,
    },
    /// Altered after it was written.
    #[error(
        "the checksum does not fit: it was altered after it was written; copy or download it again"
    )]
    Altered,
    /// Whole, but against the format's rules.
    #[error("not what version 1 of the format allows: {what}")]
    Malformed {
        /// The finding and what is wanted.
        what: String,
    },
}

impl DdcmError {
    pub(super) fn malformed(what: String) -> DdcmError {
        DdcmError::Malformed { what }
    }

    pub(super) fn not_ddcm(bytes: &[u8]) -> DdcmError {
        let shown: Vec<String> = bytes.iter().take(4).map(|b| format!("{b:02x}")).collect();
        DdcmError::NotDdcm {
            first_bytes: shown.join(" "),
        }
    }
}
