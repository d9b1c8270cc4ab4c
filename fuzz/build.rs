//! Lets the targets start bare, as docs/library.md tells.

fn main() {
    let lib = std::env::var("DEP_DDPM_LIBTORCH_LIB").expect("ddpm says where libtorch is");
    println!("cargo::rustc-link-arg=-Wl,-rpath,{lib}");
}
