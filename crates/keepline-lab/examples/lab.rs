//! The lab alone, without the rest of Keepline: `cargo run --example lab -- demo`.
//!
//! A leading `lab` is accepted, since peers are started as `<program> lab peer …`.

use std::process::exit;

use clap::Parser;
use keepline_lab::cli::{LabArgs, main as lab_main};

#[derive(Parser)]
#[command(name = "lab")]
struct Args {
    #[command(flatten)]
    lab: LabArgs,
}

fn main() {
    let mut arguments: Vec<_> = std::env::args_os().collect();
    if arguments.get(1).is_some_and(|first| first == "lab") {
        arguments.remove(1);
    }
    match lab_main(Args::parse_from(arguments).lab) {
        Ok(status) => exit(status),
        Err(error) => {
            eprintln!("lab: {error}");
            exit(2);
        }
    }
}
