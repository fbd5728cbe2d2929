//! The bytes of a service: its key, and its backends as a table from which one is drawn by weight
//! in two steps, however many there are (Vose's alias method).

use super::{Backend, Protocol, Service, Vip};
use crate::{
    NetnsCookie,
    layout::{self, Pieces},
};

/// `MOST_BACKENDS` in `bpf/direct.bpf.c`.
pub(super) const MOST_BACKENDS: usize = 256;
/// Size of `struct backend`.
const BACKEND_SIZE: usize = 32;
/// Size of `struct service`.
pub(super) const SERVICE_SIZE: usize = 8 + MOST_BACKENDS * BACKEND_SIZE;

/// A place of the table: it is drawn as often as any other, and then stays with this share,
/// or passes to its alias.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Place {
    /// Of 2³² draws; all ones: every one.
    share: u32,
    alias: u16,
}

/// Draws by these weights.
fn places(weights: &[u32]) -> Vec<Place> {
    let count = weights.len() as u128;
    let total: u128 = weights.iter().map(|weight| u128::from(*weight)).sum();
    let mut places: Vec<Place> = (0..weights.len())
        .map(|own| Place { share: u32::MAX, alias: u16::try_from(own).unwrap_or(u16::MAX) })
        .collect();
    if total == 0 {
        return places;
    }
    // In units of 1/count of the total, so that an average place has exactly `total`.
    let mut rest: Vec<u128> = weights.iter().map(|weight| u128::from(*weight) * count).collect();
    let (mut small, mut large): (Vec<_>, Vec<_>) =
        (0..rest.len()).partition(|index| rest[*index] < total);
    while let (Some(poor), Some(rich)) = (small.pop(), large.last().copied()) {
        // Less than 2³² as rest < total.
        places[poor].share = u32::try_from((rest[poor] << 32) / total).unwrap_or(u32::MAX - 1);
        places[poor].alias = u16::try_from(rich).unwrap_or(u16::MAX);
        rest[rich] -= total - rest[poor];
        if rest[rich] < total {
            large.pop();
            small.push(rich);
        }
    }
    // The arithmetic is exact: what is left is `total` each.
    places
}

/// `struct service_key`.
pub(super) fn encode_key(vip: &Vip) -> Vec<u8> {
    let mut bytes = vip.netns.0.to_ne_bytes().to_vec();
    bytes.extend(layout::address(Some(vip.address)));
    bytes.extend(vip.port.unwrap_or(0).to_be_bytes());
    bytes.push(match vip.protocol {
        Protocol::Tcp => 6,
        Protocol::Udp => 17,
    });
    bytes.resize(32, 0);
    bytes
}

/// The way back. None: not one of ours.
pub(super) fn decode_key(bytes: &[u8]) -> Option<Vip> {
    let mut pieces = Pieces(bytes);
    Some(Vip {
        netns: NetnsCookie(u64::from_ne_bytes(pieces.take())),
        address: layout::address_of(pieces.take())?,
        port: Some(u16::from_be_bytes(pieces.take())).filter(|port| *port != 0),
        protocol: match pieces.take() {
            [6] => Protocol::Tcp,
            [17] => Protocol::Udp,
            _ => return None,
        },
    })
}

/// `struct service`.
pub(super) fn encode(service: &Service, generation: u32) -> Vec<u8> {
    let backends = in_order(service);
    let weights: Vec<u32> = backends.iter().map(|backend| backend.weight).collect();
    let is_open = weights.iter().any(|weight| *weight > 0);
    let mut bytes = generation.to_ne_bytes().to_vec();
    bytes.extend(u16::try_from(backends.len()).unwrap_or(u16::MAX).to_ne_bytes());
    bytes.extend(u16::from(is_open).to_ne_bytes());
    for (backend, place) in backends.iter().zip(places(&weights)) {
        bytes.extend(layout::address(Some(backend.address)));
        bytes.extend(backend.port.unwrap_or(0).to_be_bytes());
        bytes.extend(place.alias.to_ne_bytes());
        bytes.extend(place.share.to_ne_bytes());
        bytes.extend(backend.weight.to_ne_bytes());
        bytes.extend([0; 4]);
    }
    bytes.resize(SERVICE_SIZE, 0);
    bytes
}

/// The way back: generation and backends.
pub(super) fn decode(bytes: &[u8]) -> (u32, Vec<Backend>) {
    let mut pieces = Pieces(bytes);
    let generation = pieces.u32();
    let count = usize::from(u16::from_ne_bytes(pieces.take())).min(MOST_BACKENDS);
    let _is_open: [u8; 2] = pieces.take();
    let backends = (0..count).filter_map(|_| {
        let address = layout::address_of(pieces.take());
        let port = Some(u16::from_be_bytes(pieces.take())).filter(|port| *port != 0);
        let _alias_and_share: [u8; 6] = pieces.take();
        let weight = pieces.u32();
        let _pad: [u8; 4] = pieces.take();
        Some(Backend { address: address?, port, weight })
    });
    (generation, backends.collect())
}

/// The backends as they are written, and come back.
pub(super) fn in_order(service: &Service) -> Vec<Backend> {
    let mut backends = service.backends.clone();
    for backend in &mut backends {
        backend.address = backend.address.to_canonical();
    }
    backends.sort_unstable();
    backends
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How often each is drawn, of 1.
    fn chances(weights: &[u32]) -> Vec<f64> {
        let places = places(weights);
        let mut chances = vec![0.0; weights.len()];
        for (own, place) in places.iter().enumerate() {
            let stay =
                if place.share == u32::MAX { 1.0 } else { f64::from(place.share) / 2_f64.powi(32) };
            chances[own] += stay / places.len() as f64;
            chances[usize::from(place.alias)] += (1.0 - stay) / places.len() as f64;
        }
        chances
    }

    #[test]
    fn every_backend_is_drawn_by_its_weight() {
        let many: Vec<u32> = (0..256).collect();
        for weights in [
            &[1][..],
            &[1, 1],
            &[1, 2, 3],
            &[0, 1],
            &[0, 0, 5, 0],
            &[u32::MAX, 1],
            &[65535, 1, 0, 7],
            &many,
        ] {
            let total: f64 = weights.iter().map(|weight| f64::from(*weight)).sum();
            for (weight, chance) in weights.iter().zip(chances(weights)) {
                let wanted = f64::from(*weight) / total;
                assert!((chance - wanted).abs() < 1e-9, "{weights:?}: {chance} for {weight}");
                // One that is drained is never drawn, not even once in a long time.
                assert!(*weight > 0 || chance == 0.0, "{weights:?}");
            }
        }
    }

    #[test]
    fn services_come_back_from_their_bytes() {
        for (vip, backends) in
            [("10.0.1.2", ["10.0.1.9", "10.0.1.4"]), ("fd00::2", ["fd00::9", "fd00::4"])]
        {
            for (port, protocol) in [(None, Protocol::Tcp), (Some(53), Protocol::Udp)] {
                let vip = Vip {
                    netns: NetnsCookie(1 << 40),
                    address: vip.parse().unwrap(),
                    port,
                    protocol,
                };
                let backends = backends.map(|address| Backend {
                    address: address.parse().unwrap(),
                    port: port.map(|port| port + 1000),
                    weight: 3,
                });
                let service = Service { vip, backends: backends.to_vec() };
                let (key, value) = (encode_key(&vip), encode(&service, 7));
                assert_eq!((key.len(), value.len()), (32, SERVICE_SIZE));
                assert_eq!(decode_key(&key), Some(vip));
                assert_eq!(decode(&value), (7, in_order(&service)));
            }
        }
        assert_eq!(decode_key(&[]), None);
        assert_eq!(decode(&[0xff; 8]).1, []);
    }
}
