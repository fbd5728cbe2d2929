//! Alerts, the dashboard, and the metrics they name. The list of metrics is that of docs/guard.md.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
    fs,
};

use serde_json::Value;

use crate::tools::{Folder, repository, text, tool, well, yaml};

const RULES: &str = "packaging/prometheus/keepline.rules.yml";

/// Names and labels, from the table of docs/guard.md.
fn documented() -> BTreeMap<String, BTreeSet<String>> {
    let code = |cell: &str| -> BTreeSet<String> {
        cell.split('`').skip(1).step_by(2).map(str::to_owned).collect()
    };
    let found: BTreeMap<_, _> = text("docs/guard.md")
        .lines()
        .filter(|line| line.starts_with("| `keepline_"))
        .map(|line| {
            let cells: Vec<&str> = line.split('|').collect();
            (code(cells[1]).pop_first().unwrap(), code(cells[2]))
        })
        .collect();
    assert_eq!(found.len(), 13, "{found:?}");
    found
}

/// Words of an expression.
fn words(expression: &str) -> Vec<String> {
    let mut unquoted = String::new();
    for (at, part) in expression.split('"').enumerate() {
        unquoted.push_str(if at % 2 == 0 { part } else { " " });
    }
    let is_word = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '$';
    unquoted.split(|c| !is_word(c)).filter(|word| !word.is_empty()).map(str::to_owned).collect()
}

/// Names only metrics of the list; and its labels, of those that we give.
fn check(expression: &str) {
    let documented = documented();
    let ours: Vec<String> =
        words(expression).into_iter().filter(|word| word.starts_with("keepline_")).collect();
    assert!(!ours.is_empty() || expression.starts_with("up{"), "{expression}");
    let mut allowed: BTreeSet<&str> = ["instance", "job"].into();
    for name in &ours {
        let base = name.strip_suffix("_bucket").unwrap_or(name);
        let labels = documented.get(base).unwrap_or_else(|| panic!("{name} in {expression}"));
        assert_eq!(base != name, labels.contains("le"), "{name} in {expression}");
        allowed.extend(labels.iter().map(String::as_str));
    }
    for word in words(expression) {
        let is_label = documented.values().any(|labels| labels.contains(&word));
        assert!(!is_label || allowed.contains(word.as_str()), "{word} in {expression}");
    }
}

fn dashboard() -> Value {
    serde_json::from_str(&text("packaging/grafana/keepline.json")).unwrap()
}

/// Every expression of the dashboard.
fn expressions() -> Vec<String> {
    let dashboard = dashboard();
    let panels = dashboard["panels"].as_array().unwrap();
    let targets = panels.iter().flat_map(|panel| panel["targets"].as_array().unwrap().clone());
    targets.map(|target| target["expr"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn alerts_fire_when_they_should_and_not_else() {
    needs!("promtool");
    let folder = repository("packaging/prometheus");
    well(tool("promtool").args(["check", "rules", "keepline.rules.yml"]).current_dir(&folder));
    let mut test = tool("promtool");
    well(test.args(["test", "rules", "keepline.rules.test.yml"]).current_dir(&folder));
}

#[test]
fn each_alert_names_known_metrics_is_tested_documented_and_says_what_to_type() {
    needs!("yaml");
    let (tests, documents) =
        (text("packaging/prometheus/keepline.rules.test.yml"), text("docs/guard.md"));
    let help = well(tool(crate::tools::KEEPLINE).arg("--help"));
    for alert in yaml(RULES)[0]["groups"][0]["rules"].as_array().unwrap() {
        let name = alert["alert"].as_str().unwrap();
        check(alert["expr"].as_str().unwrap());
        assert!(tests.contains(&format!("alertname: {name}\n")), "{name} has no test");
        assert!(documents.contains(name), "{name} is not in docs/guard.md");
        assert!(matches!(alert["labels"]["severity"].as_str(), Some("critical" | "warning")));
        let annotations = &alert["annotations"];
        for key in ["summary", "description", "command"] {
            assert!(annotations[key].is_string(), "{name}: {key}");
        }
        for command in ["command", "fix"].iter().filter_map(|key| annotations[key].as_str()) {
            for part in command.split("; ") {
                let mut words = part.split([' ', '{']);
                match words.next().unwrap() {
                    "keepline" => {
                        let word = words.next().unwrap();
                        assert!(help.contains(&format!("  {word} ")), "{part}");
                    }
                    "systemctl" | "journalctl" => {}
                    _ => panic!("{name}: {part}"),
                }
            }
            // Somebody will paste it: a name must not bring a command along.
            let bare = command.contains("{{ $labels.");
            assert!(!bare, "{name}: a label goes unescaped into {command}");
        }
    }
}

#[test]
fn the_dashboard_asks_for_metrics_that_there_are() {
    let expressions = expressions();
    assert!(expressions.len() >= 15);
    expressions.iter().for_each(|expression| check(expression));
    // And for all of them.
    for metric in documented().keys() {
        assert!(expressions.iter().any(|it| it.contains(metric.as_str())), "{metric} is not shown");
    }
}

#[test]
fn prometheus_understands_the_dashboard() {
    needs!("promtool");
    let mut rules = "groups:\n- name: dashboard\n  rules:\n".to_owned();
    for (at, expression) in expressions().iter().enumerate() {
        let plain = expression
            .replace("$__rate_interval", "5m")
            .replace("$instance", ".*")
            .replace("$network", ".*");
        assert!(!plain.contains('$'), "{plain}");
        writeln!(rules, "  - record: panel:{at}\n    expr: '{plain}'").unwrap();
    }
    let folder = Folder::new();
    fs::write(folder.0.join("rules.yml"), rules).unwrap();
    well(tool("promtool").args(["check", "rules"]).arg(folder.0.join("rules.yml")));
}

#[test]
fn the_dashboard_is_whole() {
    let dashboard = dashboard();
    assert_eq!(dashboard["uid"], "keepline");
    let variables: Vec<&str> = dashboard["templating"]["list"]
        .as_array()
        .unwrap()
        .iter()
        .map(|it| it["name"].as_str().unwrap())
        .collect();
    assert_eq!(variables, ["datasource", "instance", "network"]);
    let panels = dashboard["panels"].as_array().unwrap();
    let number = |panel: &Value, key: &str| panel["gridPos"][key].as_u64().unwrap();
    for (at, panel) in panels.iter().enumerate() {
        assert_eq!(panel["datasource"]["uid"], "${datasource}", "{}", panel["title"]);
        assert!(number(panel, "x") + number(panel, "w") <= 24, "{}", panel["title"]);
        for other in &panels[..at] {
            assert_ne!(panel["id"], other["id"]);
            let apart = |from: &str, length: &str| {
                number(panel, from) >= number(other, from) + number(other, length)
                    || number(other, from) >= number(panel, from) + number(panel, length)
            };
            assert!(apart("x", "w") || apart("y", "h"), "{} {}", panel["title"], other["title"]);
        }
    }
}
