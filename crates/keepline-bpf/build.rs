//! Compiles the programs in `bpf/` with clang, for the kernel that will load them.
//!
//! Run directly, not through libbpf-cargo: that would build libbpf, libelf and zlib a second time
//! for the build machine, and bring a command line's worth of dependencies.

use std::{env, path::PathBuf, process::Command};

const PROGRAMS: [&str; 4] = ["direct", "exact", "keepalive", "tables"];

fn main() {
    println!("cargo::rerun-if-changed=bpf");
    println!("cargo::rerun-if-env-changed=CLANG");
    let clang = env::var("CLANG").unwrap_or_else(|_| "clang".to_owned());
    let variable = |name: &str| PathBuf::from(env::var_os(name).expect("cargo sets this"));
    // bpf_helpers.h and bpf_core_read.h of the libbpf that is linked in.
    let (out, include) = (variable("OUT_DIR"), variable("DEP_BPF_INCLUDE"));
    for program in PROGRAMS {
        let object = out.join(format!("{program}.bpf.o"));
        let status = Command::new(&clang)
            // v2 is understood by every kernel that has the rest (5.10); -g is for BTF.
            .args(["-target", "bpf", "-mcpu=v2", "-O2", "-g", "-Wall", "-Wextra", "-Werror"])
            .args(["-fno-ident", "-fdebug-compilation-dir=.", "-c"])
            .arg("-isystem")
            .arg(&include)
            .arg(format!("bpf/{program}.bpf.c"))
            .arg("-o")
            .arg(&object)
            .status();
        match status {
            Ok(status) if status.success() => {}
            Ok(status) => panic!("{clang} could not compile bpf/{program}.bpf.c: {status}"),
            Err(error) => {
                panic!(
                    "{clang} is needed to build keepline-bpf (scripts/install-missing build): {error}"
                )
            }
        }
    }
}
