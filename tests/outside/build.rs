fn main() {
    let lib = std::env::var("DEP_DDPM_LIBTORCH_LIB").unwrap();
    println!("cargo::rustc-link-arg=-Wl,-rpath,{lib}");
}
