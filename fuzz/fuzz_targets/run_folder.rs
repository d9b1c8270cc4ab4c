#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| ddpm_fuzz::run_folder(bytes));
