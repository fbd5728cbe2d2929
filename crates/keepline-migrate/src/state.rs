//! What a migration must remember, in labels of the copy: any manager finds it there, and it goes
//! when the copy goes.

use serde_json::{Value, json};

use crate::Mode;

/// Label with the direction: a JSON object.
pub const LABEL: &str = "io.keepline.migrate";
/// Label with the whole spec that the service had before.
pub const SPEC_LABEL: &str = "io.keepline.migrate.spec";

/// What the copy remembers.
#[derive(Debug, Clone, PartialEq)]
pub struct State {
    /// The mode before.
    pub from: Mode,
    /// The mode wanted.
    pub to: Mode,
    /// The service's spec before.
    pub spec: Value,
}

impl State {
    /// As labels.
    #[must_use]
    pub fn labels(&self) -> [(&'static str, String); 2] {
        let direction = json!({
            "service": self.spec["Name"],
            "from": self.from.name(),
            "to": self.to.name(),
            "keepline": env!("CARGO_PKG_VERSION"),
        });
        [(LABEL, direction.to_string()), (SPEC_LABEL, self.spec.to_string())]
    }

    /// From the spec of a service that may be the copy of `service`.
    #[must_use]
    pub fn read(copy: &Value, service: &str) -> Option<Self> {
        let label = |key: &str| -> Option<Value> {
            serde_json::from_str(copy["Labels"][key].as_str()?).ok()
        };
        let direction = label(LABEL)?;
        let spec = label(SPEC_LABEL)?;
        (direction["service"] == service && spec["Name"] == service).then_some(())?;
        let mode = |key: &str| direction[key].as_str()?.parse().ok();
        Some(Self { from: mode("from")?, to: mode("to")?, spec })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        let spec = json!({"Name": "db", "Labels": {"x": "ä\"\n"}, "EndpointSpec": {"Mode": "vip"}});
        let state = State { from: Mode::Vip, to: Mode::Dnsrr, spec: spec.clone() };
        let copy = crate::spec::copy(&spec, &state.labels(), &[]);
        assert_eq!(State::read(&copy, "db"), Some(state));
        assert_eq!(State::read(&copy, "web"), None);
        assert_eq!(State::read(&spec, "db"), None);
        let mut broken = copy;
        broken["Labels"][SPEC_LABEL] = json!("{");
        assert_eq!(State::read(&broken, "db"), None);
    }
}
