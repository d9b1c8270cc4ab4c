//! The NVIDIA driver that is there, and what libtorch needs of it and of the GPU.

use std::fmt;
use std::path::Path;

use anyhow::{Result, ensure};

use crate::native;

/// Where the kernel module of the driver says its release.
const RELEASE: &str = "/proc/driver/nvidia/version";

/// The GPUs that PyTorch 2.11.0 for CUDA 13.0 has code for: compute capabilities, major and minor. Code for one runs on
/// GPUs of the same major and a higher minor number too.
///
/// Source: `torch._C._cuda_getArchFlags()` of the wheel.
const CUDA_13_CODE: [(i32, i32); 6] = [(7, 5), (8, 0), (8, 6), (9, 0), (10, 0), (12, 0)];

/// The NVIDIA driver of this machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Driver {
    /// The newest CUDA that it supports, as 13000 for 13.0. A compatibility package raises it above the kernel
    /// module's.
    pub cuda: i32,
    /// Release of the kernel module, as 580.65.06; `None` if the system does not say.
    pub release: Option<String>,
}

impl Driver {
    /// Loads the driver and asks it.
    ///
    /// # Errors
    /// There is none.
    pub fn find() -> Result<Driver> {
        Ok(Driver {
            cuda: native::cuda_driver()?,
            release: release_in(&std::fs::read_to_string(RELEASE).unwrap_or_default()),
        })
    }
}

impl fmt::Display for Driver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "CUDA {}", dotted(self.cuda))?;
        match &self.release {
            Some(release) => write!(f, " (release {release})"),
            None => Ok(()),
        }
    }
}

/// The CUDA that a libtorch was built with, and so what it needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BuiltWith {
    /// 13 for CUDA 13.0.
    major: i32,
}

impl BuiltWith {
    /// That of the libtorch of this process; `None` for one without CUDA, or one that does not tell.
    pub fn of_libtorch() -> Option<BuiltWith> {
        BuiltWith::of(&native::libtorch_folder())
    }

    /// From the CUDA runtime that the library for CUDA's memory is linked to: it is small, and nothing is loaded.
    fn of(folder: &Path) -> Option<BuiltWith> {
        let library = std::fs::read(folder.join("libc10_cuda.so")).ok()?;
        let major = runtime_major(&library)?;
        Some(BuiltWith { major })
    }

    /// The first version of CUDA whose drivers run all of this major version.
    fn cuda(self) -> i32 {
        self.major * 1000
    }

    /// The first release of the driver for [`cuda`](BuiltWith::cuda) on Linux.
    ///
    /// Source: NVIDIA, CUDA Toolkit Release Notes, table "CUDA Toolkit and Corresponding Driver Versions"
    fn release(self) -> Option<&'static str> {
        match self.major {
            12 => Some("525.60.13"),
            13 => Some("580.65.06"),
            _ => None,
        }
    }

    /// # Errors
    /// A driver that is too old.
    fn check_driver(self, driver: &Driver) -> Result<()> {
        ensure!(
            driver.cuda >= self.cuda(),
            "the NVIDIA driver is too old: it supports {driver}, and this libtorch needs {self}; update the driver"
        );
        Ok(())
    }

    /// # Errors
    /// A GPU that this libtorch has no code for.
    fn check_capability(self, device: &native::CudaDevice) -> Result<()> {
        let (major, minor) = device.capability;
        let runs = |code: &(i32, i32)| code.0 == major && code.1 <= minor;
        ensure!(
            self.major != 13 || CUDA_13_CODE.iter().any(runs),
            "{} has compute capability {major}.{minor}, and this libtorch has code for 7.5, 8.0 to 8.9, 9.0, 10.0 to 10.3, \
             and 12.0 to 12.1",
            device.name
        );
        Ok(())
    }
}

impl fmt::Display for BuiltWith {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "CUDA {}", dotted(self.cuda()))?;
        match self.release() {
            Some(release) => write!(f, " (release {release} or later)"),
            None => Ok(()),
        }
    }
}

/// CUDA device `index`, if the driver and the device are such that this libtorch can compute on it. libtorch's CUDA
/// half is not loaded.
///
/// # Errors
/// No driver or one that is too old, no such device, or one that libtorch has no code for.
pub(super) fn device(index: usize) -> Result<native::CudaDevice> {
    let driver = Driver::find()?;
    let built = BuiltWith::of_libtorch();
    built.map_or(Ok(()), |built| built.check_driver(&driver))?;
    let device = native::cuda_device(index)?;
    built.map_or(Ok(()), |built| built.check_capability(&device))?;
    Ok(device)
}

/// NVIDIA's number for a version of CUDA, as 13000, in the usual form: 13.0.
fn dotted(version: i32) -> String {
    format!("{}.{}", version / 1000, version % 1000 / 10)
}

/// The release in the text of the kernel module: its first word of numbers and dots.
fn release_in(text: &str) -> Option<String> {
    let is_release =
        |word: &&str| word.contains('.') && word.split('.').all(|part| part.parse::<u32>().is_ok());
    let found = text.lines().next()?.split_whitespace().find(is_release);
    found.map(str::to_owned)
}

/// The major version in the name of the CUDA runtime that a library is linked to: `libcudart.so.13`, or
/// `libcudart-d0da41ae.so.11.0` in some builds.
fn runtime_major(library: &[u8]) -> Option<i32> {
    let name = b"libcudart";
    let mut places = library.windows(name.len()).enumerate();
    places.find_map(|(at, window)| {
        let rest = (window == name).then(|| &library[at + name.len()..])?;
        let rest = rest.split(|byte| *byte == 0).next()?;
        let (_, version) = std::str::from_utf8(rest).ok()?.split_once(".so.")?;
        version.split('.').next()?.parse().ok()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_release_is_the_first_word_of_numbers() {
        let closed = "NVRM version: NVIDIA UNIX x86_64 Kernel Module  570.86.10  Thu Jan 23 00:11:52 UTC 2025\nGCC version:  gcc version 12.2.0\n";
        let open = "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.65.06  Release Build  (dvs-builder@U22)\n";
        assert_eq!(release_in(closed).as_deref(), Some("570.86.10"));
        assert_eq!(release_in(open).as_deref(), Some("580.65.06"));
        assert_eq!(release_in(""), None);
    }

    #[test]
    fn the_runtime_is_read_from_its_name() {
        assert_eq!(runtime_major(b"\0libcudart\0libcudart.so.13\0"), Some(13));
        assert_eq!(runtime_major(b"libcudart-d0da41ae.so.12.1\0"), Some(12));
        assert_eq!(runtime_major(b"libcudart.so\0libc.so.6\0"), None);
    }

    #[test]
    fn what_libtorch_needs_is_named() {
        let built = BuiltWith { major: 13 };
        let driver = |cuda, release: &str| Driver {
            cuda,
            release: Some(release.to_owned()),
        };
        assert!(built.check_driver(&driver(13000, "580.65.06")).is_ok());
        // A compatibility package on an older kernel module.
        assert!(built.check_driver(&driver(13010, "535.54.03")).is_ok());
        let old = built.check_driver(&driver(12080, "570.86.10"));
        assert_eq!(
            old.unwrap_err().to_string(),
            "the NVIDIA driver is too old: it supports CUDA 12.8 (release 570.86.10), and this libtorch needs CUDA 13.0 \
             (release 580.65.06 or later); update the driver"
        );

        let gpu = |major, minor| native::CudaDevice {
            name: "a GPU".to_owned(),
            capability: (major, minor),
        };
        for fine in [(7, 5), (8, 0), (8, 9), (9, 0), (10, 3), (12, 1)] {
            assert!(built.check_capability(&gpu(fine.0, fine.1)).is_ok());
        }
        for not in [(6, 1), (7, 0), (11, 0), (13, 0)] {
            assert!(built.check_capability(&gpu(not.0, not.1)).is_err());
        }
        // Other builds of libtorch have code for others.
        assert!(BuiltWith { major: 12 }.check_capability(&gpu(7, 0)).is_ok());
    }
}
