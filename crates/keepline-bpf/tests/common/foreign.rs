//! Programs of others at the same hooks, and the kernel's list of all that are attached.

use std::{
    fs::File,
    os::fd::{AsRawFd, FromRawFd, OwnedFd},
    path::Path,
    ptr,
    time::Duration,
};

use libbpf_sys as sys;

/// A program that does nothing and lets everything pass, attached as systemd or Cilium do.
#[derive(Debug)]
pub struct Foreign {
    program: OwnedFd,
    cgroup: File,
    hook: u32,
}

impl Foreign {
    pub fn attach(cgroup: &Path, kind: u32, hook: u32) -> Self {
        // r0 = 1; exit
        let mut instructions = [sys::bpf_insn::default(); 2];
        instructions[0].code = 0xb7;
        instructions[0].imm = 1;
        instructions[1].code = 0x95;
        let options = sys::bpf_prog_load_opts {
            sz: size_of::<sys::bpf_prog_load_opts>() as sys::size_t,
            expected_attach_type: hook,
            ..Default::default()
        };
        // SAFETY: the strings are terminated, two instructions are said and there, and `options`
        // tells its own size.
        let program = unsafe {
            sys::bpf_prog_load(
                kind,
                c"foreign".as_ptr(),
                c"GPL".as_ptr(),
                instructions.as_ptr(),
                2,
                ptr::from_ref(&options).cast_mut(),
            )
        };
        assert!(program >= 0, "cannot load a program: {program}");
        // SAFETY: a new descriptor that nobody else has.
        let program = unsafe { OwnedFd::from_raw_fd(program) };
        let cgroup = File::open(cgroup).unwrap();
        // SAFETY: takes numbers only.
        let result = unsafe {
            sys::bpf_prog_attach(
                program.as_raw_fd(),
                cgroup.as_raw_fd(),
                hook,
                sys::BPF_F_ALLOW_MULTI,
            )
        };
        assert_eq!(result, 0);
        Self { program, cgroup, hook }
    }

    pub fn id(&self) -> u32 {
        libbpf_rs::Program::id_from_fd(std::os::fd::AsFd::as_fd(&self.program)).unwrap()
    }
}

impl Foreign {
    /// How often it ran while [`Statistics`] were on.
    pub fn runs(&self) -> u64 {
        self.cost().0
    }

    /// How often it ran, and how long that took, while [`Statistics`] were on.
    pub fn cost(&self) -> (u64, Duration) {
        let mut info = sys::bpf_prog_info::default();
        let mut length = size_of::<sys::bpf_prog_info>() as u32;
        // SAFETY: `info` has as many bytes as `length` says, and asks for no arrays.
        let result = unsafe {
            sys::bpf_prog_get_info_by_fd(self.program.as_raw_fd(), &raw mut info, &raw mut length)
        };
        assert_eq!(result, 0);
        (info.run_cnt, Duration::from_nanos(info.run_time_ns))
    }
}

impl Drop for Foreign {
    fn drop(&mut self) {
        // SAFETY: takes numbers only.
        unsafe {
            sys::bpf_prog_detach2(self.program.as_raw_fd(), self.cgroup.as_raw_fd(), self.hook)
        };
    }
}

/// Numbers of the programs at a hook of a control group, in the order in which they run.
pub fn attached(cgroup: &Path, hook: u32) -> Vec<u32> {
    let cgroup = File::open(cgroup).unwrap();
    let mut ids = vec![0_u32; 64];
    let mut count = 64;
    // SAFETY: there is room for as many numbers as `count` says; no flags are asked for.
    let result = unsafe {
        sys::bpf_prog_query(
            cgroup.as_raw_fd(),
            hook,
            0,
            ptr::null_mut(),
            ids.as_mut_ptr(),
            &raw mut count,
        )
    };
    assert_eq!(result, 0);
    ids.truncate(count as usize);
    ids
}

/// While it lives, the kernel counts runs of programs and their time.
#[derive(Debug)]
pub struct Statistics(OwnedFd);

impl Statistics {
    pub fn on() -> Self {
        // SAFETY: takes a number; the new descriptor is nobody else's.
        let fd = unsafe { sys::bpf_enable_stats(sys::BPF_STATS_RUN_TIME) };
        assert!(fd >= 0);
        // SAFETY: as above.
        Self(unsafe { OwnedFd::from_raw_fd(fd) })
    }
}
