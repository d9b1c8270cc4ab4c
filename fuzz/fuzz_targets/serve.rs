#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| ddpm_fuzz::serve(bytes));
