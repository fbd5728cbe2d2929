//! What a migration must remember, in labels of the copy: any manager finds it there, and it goes
//! when the copy goes.

use std::fmt;
use std::fs;
use std::hash::{BuildHasher as _, RandomState};

use serde_json::{Value, json};

use crate::Mode;
use crate::engine::text;

/// Label with the direction: a JSON object.
pub const LABEL: &str = "io.keepline.migrate";
/// Label with the whole spec that the service had before.
pub const SPEC_LABEL: &str = "io.keepline.migrate.spec";
/// Label with the run that carries it out: a JSON object.
pub const CLAIM_LABEL: &str = "io.keepline.migrate.claim";

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

/// Which run carries a migration out, and what must go.
///
/// The Engine removes a service whatever its version, so a run that was held up may remove late
/// what it had decided to remove. It says so before: with a label, written only if nobody else
/// has written since it looked. From then on no run relies on what `removes` names, and each
/// removes it first. Of the service and its copy never both are named: the copy's version lets
/// one of two runs pass.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claim {
    /// No other run has this one.
    pub run: String,
    /// Id of its process.
    pub process: u64,
    /// Name of the host that it runs on.
    pub host: String,
    /// Id of the service that must go. No other service ever gets that id.
    pub removes: Option<String>,
}

impl Claim {
    /// Of a new run of this process.
    #[must_use]
    pub fn new() -> Self {
        let process = std::process::id();
        let host = fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
        Self {
            // Seeded by the system's random numbers, other ones each time.
            run: format!("{:016x}", RandomState::new().hash_one(process)),
            process: process.into(),
            host: host.trim().to_owned(),
            removes: None,
        }
    }

    /// The same run, which removes the service with this id.
    #[must_use]
    pub fn removing(&self, id: Option<String>) -> Self {
        Self { removes: id, ..self.clone() }
    }

    /// As a label.
    #[must_use]
    pub fn label(&self) -> (&'static str, String) {
        let Self { run, process, host, removes } = self;
        let value = json!({"run": run, "process": process, "host": host, "removes": removes});
        (CLAIM_LABEL, value.to_string())
    }

    /// From the spec of a copy; none where an older version made it.
    #[must_use]
    pub fn read(copy: &Value) -> Option<Self> {
        let claim: Value = serde_json::from_str(copy["Labels"][CLAIM_LABEL].as_str()?).ok()?;
        Some(Self {
            run: text(&claim["run"])?,
            process: claim["process"].as_u64().unwrap_or_default(),
            host: text(&claim["host"]).unwrap_or_default(),
            removes: text(&claim["removes"]),
        })
    }
}

impl Default for Claim {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Display for Claim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "process {} on {}", self.process, self.host)
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

    #[test]
    fn a_claim_is_one_runs() {
        let one = Claim::new();
        assert_ne!(one.run, Claim::new().run);
        assert!(!one.host.is_empty() && one.to_string().starts_with("process "), "{one}");
        for claim in [one.removing(Some("id1".to_owned())), one] {
            let spec = crate::spec::with_labels(&json!({"Labels": null}), &[claim.label()]);
            assert_eq!(Claim::read(&spec), Some(claim));
        }
        assert_eq!(Claim::read(&json!({"Labels": {CLAIM_LABEL: "{}"}})), None);
    }
}
