//! Compiles the programs in `bpf/` with clang, for the kernel that will load them.
//!
//! Run directly, not through libbpf-cargo: that would build libbpf, libelf and zlib a second time
//! for the build machine, and bring a command line's worth of dependencies.

use std::{env, path::PathBuf, process::Command};

const PROGRAMS: [&str; 5] = ["direct", "exact", "ipvs", "keepalive", "tables"];

/// As a version would have it whose map of services has another layout: for the test that replaces one
/// by the other.
const OTHER_VERSION: (&str, &str, &str) =
    ("direct", "direct-of-another-version", "-DMOST_BACKENDS=64");

fn main() {
    println!("cargo::rerun-if-changed=bpf");
    println!("cargo::rerun-if-env-changed=CLANG");
    for program in PROGRAMS {
        compile(program, program, None);
    }
    let (program, object, define) = OTHER_VERSION;
    compile(program, object, Some(define));
}

fn compile(program: &str, object: &str, define: Option<&str>) {
    let clang = env::var("CLANG").unwrap_or_else(|_| "clang".to_owned());
    let variable = |name: &str| PathBuf::from(env::var_os(name).expect("cargo sets this"));
    // bpf_helpers.h and bpf_core_read.h of the libbpf that is linked in.
    let (out, include) = (variable("OUT_DIR"), variable("DEP_BPF_INCLUDE"));
    let status = Command::new(&clang)
        // v2 is understood by every kernel that has the rest (5.10); -g is for BTF.
        .args(["-target", "bpf", "-mcpu=v2", "-O2", "-g", "-Wall", "-Wextra", "-Werror"])
        .args(["-fno-ident", "-fdebug-compilation-dir=.", "-c"])
        .args(define)
        .arg("-isystem")
        .arg(&include)
        .arg(format!("bpf/{program}.bpf.c"))
        .arg("-o")
        .arg(out.join(format!("{object}.bpf.o")))
        .status();
    match status {
        Ok(status) if status.success() => {}
        Ok(status) => panic!("{clang} could not compile bpf/{program}.bpf.c: {status}"),
        Err(error) => panic!(
            "{clang} is needed to build keepline-bpf (scripts/install-missing build): {error}"
        ),
    }
}
