//! Services, destinations, daemons and settings of IPVS. What was read is written and read again.
#![no_main]

use keepline_wire::{ipvs, nl};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let _ = (ipvs::parse_info(bytes), ipvs::parse_config(bytes));
    if let Ok(mut service) = ipvs::parse_service(bytes) {
        service.stats = None;
        let again = ipvs::set_service(1, &service, 1);
        assert_eq!(ipvs::parse_service(&again[nl::HEADER_LEN..]), Ok(service));
    }
    if let Ok(mut destination) = ipvs::parse_destination(bytes) {
        // Counts are not part of a request.
        destination.stats = None;
        (destination.active, destination.inactive, destination.persistent) = (0, 0, 0);
        let id = ipvs::ServiceId::Fwmark { mark: 1, v6: false };
        let again = ipvs::new_destination(1, &id, &destination, 1);
        assert_eq!(ipvs::parse_destination(&again[nl::HEADER_LEN..]), Ok(destination));
    }
    if let Ok(daemon) = ipvs::parse_daemon(bytes) {
        let again = ipvs::new_daemon(1, &daemon, 1);
        assert_eq!(ipvs::parse_daemon(&again[nl::HEADER_LEN..]), Ok(daemon));
    }
});
