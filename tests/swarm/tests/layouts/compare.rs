//! The comparisons: Keepline's word against that of the tools.

use std::collections::{BTreeMap, BTreeSet};

use keepline_swarm_tests::oracle::{self, Entry};
use serde_json::Value;

use crate::story::{FRESH, Moment, SILENT, Story, TIMEOUT};

/// How far a lifetime may lie outside of what the tools said just before and just after.
const TOLERANCE: f64 = 2.0;

type Pair = (String, String);

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_else(|| panic!("no text: {value}")).to_owned()
}

fn list(value: &Value) -> &[Value] {
    value.as_array().unwrap_or_else(|| panic!("no list: {value}"))
}

fn number(value: &Value) -> f64 {
    value.as_f64().unwrap_or_else(|| panic!("no number: {value}"))
}

/// The namespaces of the lab, each with what Keepline captured of it.
fn captured(story: &Story, moment: &Moment) -> BTreeMap<String, Value> {
    assert_eq!(moment.status("capture.run"), 0, "{}", moment.text("capture.run.err"));
    let capture = moment.json("capture");
    let names: BTreeSet<String> = list(&story.lab["namespaces"]).iter().map(text).collect();
    let found: BTreeMap<String, Value> = list(&capture["namespaces"])
        .iter()
        .map(|namespace| (text(&namespace["name"]), namespace.clone()))
        .filter(|(name, _)| names.contains(name))
        .collect();
    assert_eq!(found.keys().cloned().collect::<BTreeSet<_>>(), names, "namespaces captured");
    found
}

/// Entries of a captured table.
pub fn entries(table: &Value) -> Vec<(Entry, f64)> {
    let entry = |entry: &Value| {
        let [client, server, backend, state] =
            ["client", "server", "backend", "state"].map(|key| text(&entry[key]));
        (Entry { client, server, backend, state }, number(&entry["expires_seconds"]))
    };
    table["entries"].as_array().into_iter().flatten().map(entry).collect()
}

/// The same entries, and each with a lifetime between the tool's two looks. One table serves all
/// namespaces, and the kernel counts its way back into it (`ip_vs_conn_array()`): while another's
/// entries go, its listing skips some, so one of the two has to have them.
pub fn same_entries(ours: &[(Entry, f64)], before: &[(Entry, f64)], after: &[(Entry, f64)]) {
    let map = |entries: &[(Entry, f64)]| entries.iter().cloned().collect::<BTreeMap<_, _>>();
    let (ours, before, after) = (map(ours), map(before), map(after));
    let told: BTreeSet<&Entry> = before.keys().chain(after.keys()).collect();
    assert_eq!(ours.keys().collect::<BTreeSet<_>>(), told);
    let mut in_both = 0;
    for (entry, left) in &ours {
        if let (Some(before), Some(after)) = (before.get(entry), after.get(entry)) {
            within(*left, *before, *after, &format!("{entry:?}"));
            in_both += 1;
        }
    }
    assert!(in_both * 100 >= ours.len() * 99, "{in_both} of {}", ours.len());
}

fn within(ours: f64, before: f64, after: f64, what: &str) {
    assert!(
        (after - TOLERANCE..=before + TOLERANCE).contains(&ours),
        "{what}: {ours} s left; the tools said {before} before and {after} after"
    );
}

/// The sockets in the client's namespace, by `ss`: client and server addresses.
fn client_sockets(story: &Story, moment: &Moment) -> BTreeSet<Pair> {
    oracle::sockets(moment.tool(&format!("{}.sockets", story.lab_name("client_netns"))))
}

/// What the director remembers by its own tools: client address to entry and lifetimes.
fn remembered(story: &Story, moment: &Moment) -> BTreeMap<String, (Entry, f64, f64)> {
    let (before, after) = if story.lab_name("layout") == "nat" {
        let look = |name| oracle::conntrack_entries(moment.tool(name));
        (look("conntrack.before"), look("conntrack.after"))
    } else {
        let look = |name| oracle::ipvs_entries(moment.tool(name));
        (look("ipvs.before"), look("ipvs.after"))
    };
    let after: BTreeMap<Entry, f64> = after.into_iter().collect();
    before
        .into_iter()
        .filter(|(entry, _)| entry.state == "ESTABLISHED")
        .filter_map(|(entry, left)| {
            let later = *after.get(&entry)?;
            Some((entry.client.clone(), (entry, left, later)))
        })
        .collect()
}

/// Sessions of `check -o json` by client address.
fn sessions(check: &Value) -> BTreeMap<String, &Value> {
    list(&check["sessions"]).iter().map(|session| (text(&session["client"]), session)).collect()
}

fn with_verdict(check: &Value, verdict: &str) -> BTreeSet<Pair> {
    list(&check["sessions"])
        .iter()
        .filter(|session| session["verdict"] == verdict)
        .map(|session| (text(&session["client"]), text(&session["server"])))
        .collect()
}

pub fn services_are_those_of_ipvsadm(story: &Story) {
    let mut seen = 0;
    for (name, namespace) in captured(story, &story.before) {
        let mut ours = BTreeSet::new();
        for service in namespace["ipvs"]["services"].as_array().into_iter().flatten() {
            let id = match service["id"]["fwmark"].as_u64() {
                Some(mark) => format!("-f {mark}"),
                None => format!("-t {}", text(&service["id"]["tcp"])),
            };
            ours.insert(format!("-A {id} -s {}", text(&service["scheduler"])));
            for destination in list(&service["destinations"]) {
                assert_eq!(destination["forwarding"], "masquerade");
                ours.insert(format!(
                    "-a {id} -r {} -m -w {}",
                    text(&destination["address"]),
                    destination["weight"]
                ));
            }
        }
        let theirs = oracle::lines(story.before.tool(&format!("{name}.services")));
        assert_eq!(ours, theirs, "{name}");
        seen += ours.len();
    }
    // One service with two backends, or none at all.
    assert_eq!(seen, if story.lab_name("layout") == "nat" { 0 } else { 3 });
}

/// What `keepline timeouts` says of the lab's director, which it must list.
fn listed_timeouts(story: &Story) -> Value {
    assert_eq!(story.before.status("timeouts"), 0, "{}", story.before.text("timeouts.err"));
    let listed = story.before.json("timeouts");
    let director = story.lab_name("director_netns");
    let found = list(&listed["directors"]).iter().find(|item| item["director"] == director);
    found.unwrap_or_else(|| panic!("{director} is not in {listed:#}")).clone()
}

fn three(value: &Value, keys: [&str; 3]) -> [f64; 3] {
    keys.map(|key| number(&value[key]))
}

pub fn timeouts_are_those_of_ipvsadm(story: &Story) {
    let theirs = oracle::timeouts(story.before.tool("ipvs.timeouts").trim());
    assert!(theirs[0] == TIMEOUT, "{theirs:?}");
    let keys = ["tcp_seconds", "tcp_fin_seconds", "udp_seconds"];
    let captured = &captured(story, &story.before)[story.lab_name("director_netns")];
    assert_eq!(three(&captured["ipvs"]["timeouts"], keys), theirs, "capture");
    assert_eq!(three(&listed_timeouts(story)["ipvs"], keys), theirs, "timeouts");
}

pub fn timeouts_are_those_of_conntrack(story: &Story) {
    let theirs = oracle::timeouts(story.before.tool("conntrack.timeouts").trim());
    let keys = ["established_seconds", "fin_wait_seconds", "close_wait_seconds"];
    let captured = &captured(story, &story.before)[story.lab_name("director_netns")];
    assert_eq!(three(&captured["conntrack"]["timeouts"], keys), theirs, "capture");
    assert_eq!(three(&listed_timeouts(story)["conntrack"], keys), theirs, "timeouts");
    if story.lab_name("layout") == "nat" {
        assert!(theirs[0] == TIMEOUT, "{theirs:?}");
    }
}

pub fn sockets_are_those_of_ss(story: &Story) {
    for moment in [&story.before, &story.after] {
        for (name, namespace) in captured(story, moment) {
            let ours: BTreeSet<Pair> = list(&namespace["sockets"])
                .iter()
                .map(|socket| (text(&socket["local"]), text(&socket["remote"])))
                .collect();
            assert_eq!(ours, oracle::sockets(moment.tool(&format!("{name}.sockets"))), "{name}");
        }
    }
    assert_eq!(client_sockets(story, &story.before).len(), SILENT);
    assert_eq!(client_sockets(story, &story.after).len(), SILENT + FRESH);
}

pub fn ipvs_entries_are_those_of_ipvsadm(story: &Story) {
    let director = story.lab_name("director_netns");
    for (moment, count) in [(&story.before, SILENT), (&story.after, FRESH)] {
        let ours = entries(&captured(story, moment)[director]["ipvs"]);
        let look = |name| oracle::ipvs_entries(moment.tool(name));
        same_entries(&ours, &look("ipvs.before"), &look("ipvs.after"));
        assert_eq!(ours.len(), count);
    }
}

pub fn conntrack_entries_are_those_of_conntrack(story: &Story) {
    let director = story.lab_name("director_netns");
    let captured = captured(story, &story.before);
    let ours = entries(&captured[director]["conntrack"]);
    let look = |name| oracle::conntrack_entries(story.before.tool(name));
    same_entries(&ours, &look("conntrack.before"), &look("conntrack.after"));
    assert_eq!(ours.len(), SILENT);
    // The director's own entries run out while the others are listed: they are compared above.
    for (name, namespace) in captured.iter().filter(|(name, _)| *name != director) {
        let ours: BTreeSet<Entry> =
            entries(&namespace["conntrack"]).into_iter().map(|(entry, _)| entry).collect();
        let listing = story.before.tool(&format!("{name}.conntrack"));
        let theirs = oracle::conntrack_entries(listing).into_iter().map(|(entry, _)| entry);
        assert_eq!(ours, theirs.collect(), "{name}");
    }
}

pub fn sessions_are_at_risk_with_the_time_left(story: &Story) {
    let check = story.before.json("check");
    // At risk is not yet lost: 0 with the default --fail-on.
    assert_eq!(story.before.status("check"), 0, "{check:#}");
    let all = client_sockets(story, &story.before);
    assert_eq!(with_verdict(&check, "at-risk"), all, "{check:#}");
    assert_eq!(check["summary"]["at_risk"], SILENT, "{check:#}");
    let remembered = remembered(story, &story.before);
    for (client, session) in sessions(&check) {
        let (entry, before, after) = &remembered[&client];
        assert_eq!(session["backend"], entry.backend.as_str(), "{session:#}");
        assert_eq!(session["director"], story.lab_name("director_netns"), "{session:#}");
        let table = if story.lab_name("layout") == "nat" { "conntrack" } else { "ipvs" };
        assert_eq!(session["table"], table, "{session:#}");
        let ours = &session["entry"];
        assert_eq!(ours["state"], entry.state.as_str(), "{session:#}");
        assert_eq!(number(&ours["timeout_seconds"]), TIMEOUT, "{session:#}");
        within(number(&ours["expires_seconds"]), *before, *after, &client);
        within(number(&session["orphaned_in_seconds"]), *before, *after, &client);
    }
}

pub fn orphans_are_what_the_director_lacks(story: &Story) {
    let check = story.after.json("check");
    let remembered = remembered(story, &story.after);
    let (lives, orphans): (BTreeSet<Pair>, BTreeSet<Pair>) = client_sockets(story, &story.after)
        .into_iter()
        .partition(|(client, _)| remembered.contains_key(client));
    assert_eq!((lives.len(), orphans.len()), (FRESH, SILENT), "by the tools");
    assert_eq!(with_verdict(&check, "orphaned"), orphans, "{check:#}");
    assert_eq!(with_verdict(&check, "at-risk"), lives, "{check:#}");
    assert_eq!(story.after.status("check"), 1, "exit status with orphans");
    let finding = list(&check["findings"]).iter().find(|finding| finding["code"] == "KL001");
    assert_eq!(finding.expect("KL001")["sessions"], SILENT, "{check:#}");
}

pub fn a_write_on_an_orphan_is_reset(story: &Story) {
    let write = &story.write;
    assert_eq!((&write["reset"], &write["lost"]), (&SILENT.into(), &SILENT.into()), "{write}");
}

/// IPVS lets the packet pass, and nobody on the network has the VIP.
pub fn a_write_on_an_orphan_hangs(story: &Story) {
    let write = &story.write;
    assert_eq!((&write["timed_out"], &write["lost"]), (&SILENT.into(), &SILENT.into()), "{write}");
}

/// The pairs that the article's pipeline prints.
fn article(story: &Story) -> BTreeSet<Pair> {
    let pair = |line: &str| line.split_once(' ').map(|(a, b)| (a.to_owned(), b.to_owned()));
    story.after.tool("article").lines().filter_map(pair).collect()
}

pub fn the_articles_pipeline_finds_the_same(story: &Story) {
    let ours = with_verdict(&story.after.json("check"), "orphaned");
    assert_eq!(ours.len(), SILENT);
    assert_eq!(article(story), ours);
}

/// Since 18.09 the client's namespace has an entry of its own that lives for days.
pub fn the_articles_pipeline_finds_nothing(story: &Story) {
    assert_eq!(article(story), BTreeSet::new());
    assert_eq!(with_verdict(&story.after.json("check"), "orphaned").len(), SILENT);
}

pub fn nothing_is_left(story: &Story) {
    assert_eq!(story.left, "", "namespaces and processes after `lab down`");
}
