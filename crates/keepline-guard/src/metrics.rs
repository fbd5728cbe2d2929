//! What is told to Prometheus.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use keepline_core::{Judgement, Snapshot, Verdict, names::Namer, plan::Action};
use prometheus_client::{
    encoding::text::encode,
    metrics::{
        counter::Counter,
        family::Family,
        gauge::Gauge,
        histogram::{Histogram, exponential_buckets},
        info::Info,
    },
    registry::{Registry, Unit},
};

type Labels = Vec<(&'static str, String)>;
type Seconds = Gauge<f64, std::sync::atomic::AtomicU64>;

/// More pairs of network and service than this are counted together as `other`: names are made by
/// others, and every one is a time series.
const MOST_SERVICES: usize = 200;
const OTHER: &str = "other";

/// Every metric.
#[derive(Debug)]
pub(crate) struct Metrics {
    registry: Registry,
    sessions: Family<Labels, Gauge>,
    next_loss: Family<Labels, Seconds>,
    pub(crate) orphaned: Counter,
    pub(crate) held: Counter,
    pub(crate) healed: Counter,
    actions: Family<Labels, Counter>,
    pub(crate) scan: Histogram,
    pub(crate) reconcile: Histogram,
    passes: Family<Labels, Counter>,
    pub(crate) last: Seconds,
    pub(crate) incomplete: Gauge,
    pub(crate) invalid: Gauge,
}

impl Default for Metrics {
    fn default() -> Self {
        // From a millisecond to half a minute.
        let durations = || Histogram::new(exponential_buckets(0.001, 2.0, 16));
        let mut registry = Registry::with_prefix("keepline");
        let metrics = Self {
            registry: Registry::default(),
            sessions: Family::default(),
            next_loss: Family::default(),
            orphaned: Counter::default(),
            held: Counter::default(),
            healed: Counter::default(),
            actions: Family::default(),
            scan: durations(),
            reconcile: durations(),
            passes: Family::default(),
            last: Seconds::default(),
            incomplete: Gauge::default(),
            invalid: Gauge::default(),
        };
        registry.register("sessions", "Sessions through load balancers", metrics.sessions.clone());
        registry.register_with_unit(
            "next_loss",
            "Until the first session is forgotten that nothing keeps",
            Unit::Seconds,
            metrics.next_loss.clone(),
        );
        registry.register(
            "sessions_orphaned",
            "Sessions that were found forgotten",
            metrics.orphaned.clone(),
        );
        registry.register("entries_held", "Entries that were renewed", metrics.held.clone());
        registry.register(
            "sessions_healed",
            "Forgotten sessions that were brought back",
            metrics.healed.clone(),
        );
        registry.register("actions", "Changes, by what came of them", metrics.actions.clone());
        registry.register_with_unit(
            "scan_duration",
            "A look at this machine",
            Unit::Seconds,
            metrics.scan.clone(),
        );
        registry.register_with_unit(
            "reconcile_duration",
            "A look and what followed from it",
            Unit::Seconds,
            metrics.reconcile.clone(),
        );
        registry.register("reconciles", "Passes, by how they ended", metrics.passes.clone());
        registry.register_with_unit(
            "last_reconcile_timestamp",
            "End of the last pass, since 1970",
            Unit::Seconds,
            metrics.last.clone(),
        );
        registry.register(
            "scan_incomplete",
            "Places that could not be read in the last look",
            metrics.incomplete.clone(),
        );
        registry.register(
            "policy_invalid",
            "Policy values that say nothing",
            metrics.invalid.clone(),
        );
        let build = Info::new(vec![("version", env!("CARGO_PKG_VERSION"))]);
        registry.register("build", "This program", build);
        Self { registry, ..metrics }
    }
}

impl Metrics {
    /// What was seen.
    pub(crate) fn saw(&self, snapshot: &Snapshot, judgement: &Judgement) {
        let namer = Namer::new(snapshot);
        let mut counts: BTreeMap<(Verdict, String, String), i64> = BTreeMap::new();
        let mut losses: BTreeMap<String, Duration> = BTreeMap::new();
        let mut known = BTreeSet::new();
        for session in &judgement.sessions {
            let names = namer.of(session);
            let network = names.network.map_or("", |network| network.name.as_str());
            let service = names.service.unwrap_or_default();
            let pair = (network.to_owned(), service.to_owned());
            let room = known.len() < MOST_SERVICES || known.contains(&pair);
            let (network, service) = if room {
                known.insert(pair.clone());
                pair
            } else {
                (OTHER.to_owned(), OTHER.to_owned())
            };
            if let Some(loss) = session.orphaned_in.filter(|_| session.verdict == Verdict::AtRisk) {
                let first = losses.entry(network.clone()).or_insert(loss);
                *first = loss.min(*first);
            }
            *counts.entry((session.verdict, network, service)).or_default() += 1;
        }
        self.sessions.clear();
        for ((verdict, network, service), count) in counts {
            let verdict = verdict.name().to_owned();
            let labels = vec![("verdict", verdict), ("network", network), ("service", service)];
            self.sessions.get_or_create(&labels).set(count);
        }
        self.next_loss.clear();
        for (network, loss) in losses {
            self.next_loss.get_or_create(&vec![("network", network)]).set(loss.as_secs_f64());
        }
        self.incomplete.set(i64::try_from(snapshot.incomplete.len()).unwrap_or(i64::MAX));
    }

    /// What came of changes.
    pub(crate) fn acted(&self, action: Action, result: &str, count: usize) {
        if count > 0 {
            let labels = vec![("action", action.name().to_owned()), ("result", result.to_owned())];
            self.actions.get_or_create(&labels).inc_by(count as u64);
        }
    }

    /// How a pass ended.
    pub(crate) fn passed(&self, result: &str) {
        self.passes.get_or_create(&vec![("result", result.to_owned())]).inc();
    }

    /// The text that Prometheus reads.
    pub(crate) fn text(&self) -> String {
        let mut text = String::new();
        // Writing to a string does not fail.
        let _ = encode(&mut text, &self.registry);
        text
    }
}
