//! The programs and their maps: a config's way into the kernel and back.

use std::time::Duration;

use libbpf_rs::{MapCore, MapFlags, MapHandle, Object, OpenObject};

use super::{Config, Features, LATER, NEW, Rule, Selector, Settings};
use crate::{
    Error, NetnsCookie, Support,
    facts::{self, ProgramFacts},
    layout::{self, Pieces},
    object::{self, CONSTANTS, Elf, Programs},
};

static ELF: &Elf<[u8]> = &Elf(*include_bytes!(concat!(env!("OUT_DIR"), "/keepalive.bpf.o")));

const CONFIG: &str = "keepline_conf";
const RULES: &str = "keepline_sel";
/// `version` of `struct config`, zero-terminated.
const VERSION_LENGTH: usize = 16;
/// Size of `struct settings`.
const SETTINGS_SIZE: usize = 16;

/// Loads the programs with this config in their maps; attaches none.
pub(super) fn load(config: &Config) -> Result<(Object, Features), Error> {
    let selection = match NetnsCookie::current() {
        Ok(_) => Support::Yes,
        Err(error) => Support::No(format!("{}: {error}", facts::kernel())),
    };
    let by_namespace = selection.is_yes();
    let prepare = move |open: &mut OpenObject| prepare(open, by_namespace);
    let programs = Programs { name: "keepalive", elf: &ELF.0, prepare: &prepare };
    let (object, [new_sockets, setsockopt]) = programs.load_what_works([NEW, LATER])?;
    let write = |map: &MapHandle, key: &[u8], value: &[u8]| {
        let error = |source| Error::bpf("write", "the rules of keepalive", source);
        map.update(key, value, MapFlags::ANY).map_err(error)
    };
    let rules = object::map_of(&object, RULES)?;
    for rule in &config.rules {
        let value = encode_settings(rule.settings.as_ref());
        write(&rules, &encode_selector(&rule.selector), &value)?;
    }
    write(&object::map_of(&object, CONFIG)?, &[0; 4], &encode_config(config))?;
    Ok((object, Features { new_sockets, setsockopt, selection }))
}

fn prepare(open: &mut OpenObject, by_namespace: bool) -> Result<(), libbpf_rs::Error> {
    let page = u32::try_from(rustix::param::page_size()).unwrap_or(u32::MAX);
    let constants = [facts::ticks_per_second(), page, u32::from(by_namespace)];
    for mut map in open.maps_mut().filter(|map| map.name() == CONSTANTS) {
        map.set_initial_value(constants.map(u32::to_ne_bytes).as_flattened())?;
    }
    Ok(())
}

/// `struct settings`; None is zeros.
fn encode_settings(settings: Option<&Settings>) -> [u8; SETTINGS_SIZE] {
    let mut bytes = [0; SETTINGS_SIZE];
    if let Some(settings) = settings {
        let seconds = |time: Duration| u32::try_from(time.as_secs()).unwrap_or(u32::MAX);
        let probes = settings.probes.map_or(0, u32::from);
        let enforce = u32::from(settings.enforce);
        let words = [seconds(settings.idle), seconds(settings.interval), probes, enforce];
        bytes.copy_from_slice(words.map(u32::to_ne_bytes).as_flattened());
    }
    bytes
}

fn decode_settings(pieces: &mut Pieces<'_>) -> Option<Settings> {
    let [idle, interval, probes] = [pieces.u32(), pieces.u32(), pieces.u32()];
    // Versions whose rules end here held everybody to them.
    let enforce = pieces.0.is_empty() || pieces.u32() != 0;
    (idle != 0).then(|| Settings {
        idle: Duration::from_secs(idle.into()),
        interval: Duration::from_secs(interval.into()),
        probes: u8::try_from(probes).ok().filter(|probes| *probes != 0),
        enforce,
    })
}

/// `struct config`.
fn encode_config(config: &Config) -> Vec<u8> {
    let mut bytes = layout::text::<VERSION_LENGTH>(env!("CARGO_PKG_VERSION")).to_vec();
    bytes.extend(encode_settings(config.others.as_ref()));
    bytes.extend(u32::try_from(config.rules.len()).unwrap_or(u32::MAX).to_ne_bytes());
    bytes
}

/// `struct selector`.
fn encode_selector(selector: &Selector) -> Vec<u8> {
    let mut bytes = selector.netns.0.to_ne_bytes().to_vec();
    bytes.extend(layout::address(selector.peer));
    bytes.extend(selector.port.unwrap_or(0).to_be_bytes());
    bytes.resize(32, 0);
    bytes
}

fn decode_selector(bytes: &[u8]) -> Selector {
    let mut pieces = Pieces(bytes);
    Selector {
        netns: NetnsCookie(u64::from_ne_bytes(pieces.take())),
        peer: layout::address_of(pieces.take()),
        port: Some(u16::from_be_bytes(pieces.take())).filter(|port| *port != 0),
    }
}

/// Version and settings for other sockets that a running program has.
pub(super) fn read_config(facts: &ProgramFacts) -> Result<(String, Option<Settings>), Error> {
    let read = |source| Error::bpf("read", format!("map {CONFIG}"), source);
    let Some(map) = facts.map(CONFIG)? else { return Ok((String::new(), None)) };
    let value = map.lookup(&[0; 4], MapFlags::ANY).map_err(read)?.unwrap_or_default();
    let mut pieces = Pieces(&value);
    let version: [u8; VERSION_LENGTH] = pieces.take();
    Ok((layout::text_of(&version), decode_settings(&mut pieces)))
}

/// The rules that a running program has, in order.
pub(super) fn read_rules(facts: &ProgramFacts) -> Result<Vec<Rule>, Error> {
    let Some(map) = facts.map(RULES)? else { return Ok(Vec::new()) };
    let mut rules = Vec::new();
    for key in map.keys() {
        let value = map
            .lookup(&key, MapFlags::ANY)
            .map_err(|source| Error::bpf("read", format!("map {RULES}"), source))?;
        if let Some(value) = value {
            let settings = decode_settings(&mut Pieces(&value));
            rules.push(Rule { selector: decode_selector(&key), settings });
        }
    }
    rules.sort_unstable_by_key(|rule| rule.selector);
    Ok(rules)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_come_back_from_their_bytes_and_from_those_of_older_versions() {
        for (probes, enforce) in [(None, true), (Some(5), false)] {
            let [idle, interval] = [300, 30].map(Duration::from_secs);
            let settings = Settings { idle, interval, probes, enforce };
            let bytes = encode_settings(Some(&settings));
            assert_eq!(decode_settings(&mut Pieces(&bytes)), Some(settings));
            let older = decode_settings(&mut Pieces(&bytes[..12]));
            assert_eq!(older, Some(Settings { enforce: true, ..settings }));
        }
        assert_eq!(decode_settings(&mut Pieces(&encode_settings(None))), None);
    }

    #[test]
    fn selectors_come_back_from_their_bytes() {
        for (peer, port) in [
            (None, None),
            (Some("10.0.1.2"), None),
            (Some("10.0.1.2"), Some(7000)),
            (Some("fd00::1"), Some(1)),
        ] {
            let peer = peer.map(|peer| peer.parse().unwrap());
            let selector = Selector { netns: NetnsCookie(1 << 40), peer, port };
            let bytes = encode_selector(&selector);
            assert_eq!(bytes.len(), 32);
            assert_eq!(decode_selector(&bytes), selector);
        }
    }
}
