//! Lets the targets find libtorch when started directly; see docs/library.md.

fn main() {
    let lib = std::env::var("DEP_DDPM_LIBTORCH_LIB").expect("set by the build script of ddpm");
    println!("cargo::rustc-link-arg=-Wl,-rpath,{lib}");
}
