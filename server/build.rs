//! Generates the gRPC services; their messages are core's, which also compiled the .proto files.

use prost::Message;
use std::error::Error;
use std::{env, fs};

fn main() -> Result<(), Box<dyn Error>> {
    let descriptors = env::var("DEP_AMENDS_PROTO_DESCRIPTORS")?;
    println!("cargo:rerun-if-changed={descriptors}");
    let files = prost_types::FileDescriptorSet::decode(&fs::read(descriptors)?[..])?;
    tonic_prost_build::configure()
        .build_client(false)
        .build_transport(false)
        .extern_path(".dtmgimp", "::amends::wire::grpc::dtmgimp")
        .extern_path(".workflow", "::amends::wire::grpc::workflow")
        .extern_path(".amends.v1", "::amends::wire::grpc::v1")
        .codec_path("crate::api::grpc::codec::Checked")
        .compile_fds(files)?;
    Ok(())
}
