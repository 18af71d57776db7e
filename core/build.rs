//! Compiles the .proto files: messages for this crate, and the descriptors for those who generate services or serve reflection.

#![allow(clippy::disallowed_methods)]

use prost::Message;
use std::error::Error;
use std::path::PathBuf;
use std::{env, fs};

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=proto");
    let files = protox::compile(
        [
            "dtmgimp.proto",
            "workflow.proto",
            "amends/v1/operations.proto",
        ],
        ["proto"],
    )?;
    let descriptors = PathBuf::from(env::var("OUT_DIR")?).join("descriptors.bin");
    fs::write(&descriptors, files.encode_to_vec())?;
    println!("cargo:descriptors={}", descriptors.display());
    prost_build::Config::new()
        .bytes(["."])
        .btree_map(["."])
        .compile_fds(files)?;
    Ok(())
}
