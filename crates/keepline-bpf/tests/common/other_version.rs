//! `direct` as a version has applied it whose map of services has another layout.

#![expect(clippy::unwrap_used, reason = "a helper of a test fails by panicking")]

use std::{
    fs::{self, File},
    net::IpAddr,
    os::fd::AsRawFd,
};

use keepline_bpf::direct::Service;
use libbpf_rs::{Link, MapCore, MapFlags, Object, ObjectBuilder};

use super::Place;

/// `MOST_BACKENDS` of that version (build.rs).
const MOST_BACKENDS: usize = 64;
const TCP: u8 = 6;

#[derive(Debug)]
pub struct OtherVersion;

impl OtherVersion {
    /// Attaches its programs, or puts them in the place of those that are there.
    pub fn apply(place: &Place, service: &Service) {
        let object = Self::load();
        let services = object.maps().find(|map| map.name() == "keepline_vips").unwrap();
        services.update(&key(service), &value(service), MapFlags::ANY).unwrap();
        let pins = place.bpffs.join("direct");
        fs::create_dir_all(&pins).unwrap();
        let cgroup = File::open(&place.cgroup).unwrap();
        for program in object.progs_mut() {
            let pin = pins.join(program.name());
            if pin.exists() {
                Link::open(&pin).unwrap().update_prog(&program).unwrap();
            } else {
                let mut link = program.attach_cgroup(cgroup.as_raw_fd()).unwrap();
                link.pin(&pin).unwrap();
            }
        }
    }

    fn load() -> Object {
        let file = concat!(env!("OUT_DIR"), "/direct-of-another-version.bpf.o");
        let bytes = fs::read(file).unwrap();
        let mut builder = ObjectBuilder::default();
        let mut open = builder.name("keepline").unwrap().open_memory(&bytes).unwrap();
        for mut map in open.maps_mut() {
            if map.name() == "keepline.rodata" {
                let mut version = [0; 16];
                version[..5].copy_from_slice(b"0.0.1");
                let constants = [&1_u32.to_ne_bytes()[..], &version].concat();
                map.set_initial_value(&constants).unwrap();
            }
        }
        open.load().unwrap()
    }
}

fn address(of: IpAddr) -> [u8; 16] {
    let IpAddr::V4(v4) = of else { panic!("{of}") };
    v4.to_ipv6_mapped().octets()
}

fn key(service: &Service) -> Vec<u8> {
    let mut key = service.vip.netns.0.to_ne_bytes().to_vec();
    key.extend(address(service.vip.address));
    key.extend([0, 0, TCP, 0, 0, 0, 0, 0]);
    key
}

/// All alike: nobody has an alias.
fn value(service: &Service) -> Vec<u8> {
    let count = u16::try_from(service.backends.len()).unwrap();
    let mut value = 1_u32.to_ne_bytes().to_vec();
    value.extend(count.to_ne_bytes());
    value.extend(1_u16.to_ne_bytes());
    for backend in &service.backends {
        value.extend(address(backend.address));
        value.extend([0; 4]);
        value.extend(u32::MAX.to_ne_bytes());
        value.extend(1_u32.to_ne_bytes());
        value.extend([0; 4]);
    }
    value.resize(8 + MOST_BACKENDS * 32, 0);
    value
}
