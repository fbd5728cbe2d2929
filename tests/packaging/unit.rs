//! The systemd unit.

use std::{collections::BTreeSet, fs};

use crate::tools::{Folder, KEEPLINE, run, text, tool, well};

const UNIT: &str = "packaging/systemd/keepline.service";

/// Values of a setting that may stand on more than one line.
fn setting(unit: &str, name: &str) -> Vec<String> {
    unit.lines()
        .filter_map(|line| line.strip_prefix(name)?.strip_prefix('='))
        .flat_map(|value| value.split_whitespace().map(str::to_owned).collect::<Vec<_>>())
        .collect()
}

/// Capabilities that the unit keeps.
pub fn capabilities() -> BTreeSet<String> {
    setting(&text(UNIT), "CapabilityBoundingSet").into_iter().collect()
}

/// The unit with a program that is there.
fn with_program(folder: &Folder) -> std::path::PathBuf {
    let path = folder.0.join("keepline.service");
    fs::write(&path, text(UNIT).replace("/usr/bin/keepline", KEEPLINE)).unwrap();
    path
}

#[test]
fn systemd_understands_every_line() {
    needs!("systemd-analyze");
    let folder = Folder::new();
    // No manual page of it is installed here.
    let (well, said) =
        run(tool("systemd-analyze").args(["verify", "--man=no"]).arg(with_program(&folder)));
    let ours: Vec<&str> = said.lines().filter(|line| line.contains("keepline")).collect();
    assert!(well && ours.is_empty(), "{said}");
}

#[test]
fn exposure_is_no_more_than_documented() {
    needs!("systemd-analyze");
    let folder = Folder::new();
    let (_, said) = run(tool("systemd-analyze")
        .args(["security", "--offline=true", "--threshold=100"])
        .arg(with_program(&folder)));
    let score = said
        .lines()
        .find_map(|line| {
            line.split_once("exposure level for keepline.service: ")?.1.split(' ').next()
        })
        .unwrap_or_else(|| panic!("{said}"));
    // Later systemds look at more; docs/guard.md has the number of systemd 252.
    assert!(score.parse::<f32>().unwrap() <= 4.2, "{score}");
    let told = format!("`systemd-analyze security keepline`: {score}");
    let version = well(tool("systemd-analyze").arg("--version"));
    let documented = text("docs/guard.md");
    assert!(!version.starts_with("systemd 252") || documented.contains(&told), "{told}");
}

#[test]
fn what_the_guard_cannot_do_without() {
    let unit = text(UNIT);
    let is = |name: &str, value: &str| assert_eq!(setting(&unit, name), [value], "{name}");
    is("Type", "notify");
    is("Restart", "always");
    is("RuntimeDirectory", "keepline");
    // From it `keepline undo` restores what was there.
    is("RuntimeDirectoryPreserve", "yes");
    // setns(2) into network namespaces.
    is("RestrictNamespaces", "net");
    let calls = setting(&unit, "SystemCallFilter");
    for call in ["bpf", "pidfd_getfd", "fsopen", "fsconfig", "fsmount"] {
        assert!(calls.iter().any(|it| it == call), "{call}");
    }
    let families = setting(&unit, "RestrictAddressFamilies");
    assert_eq!(families, ["AF_UNIX", "AF_NETLINK", "AF_INET", "AF_INET6"]);
    // Each of these would stop it: see the unit's own comments.
    for never in [
        "ProtectKernelTunables",
        "ProtectKernelModules",
        "ProtectKernelLogs",
        "PrivateNetwork",
        "PrivateUsers",
        "IPAddressDeny",
        "MountFlags",
        "User",
        "After=docker",
    ] {
        assert!(!unit.lines().any(|line| line.starts_with(never)), "{never}");
    }
}

#[test]
fn each_capability_is_explained_in_the_unit_and_the_documents() {
    let (unit, documents) = (text(UNIT), text("docs/guard.md"));
    let capabilities = capabilities();
    assert_eq!(capabilities.len(), 6, "{capabilities:?}");
    for capability in &capabilities {
        assert!(
            unit.contains(&format!("#   {capability} ")),
            "{capability}: no reason in the unit"
        );
        assert!(documents.contains(&format!("| `{capability}` |")), "{capability}: docs/guard.md");
    }
    let documented = documents.lines().filter(|line| line.starts_with("| `CAP_")).count();
    assert_eq!(documented, capabilities.len());
}

#[test]
fn the_configuration_shows_every_key_with_its_documented_value() {
    let (config, documents) = (text("packaging/config.toml"), text("docs/guard.md"));
    for line in documents.lines().filter(|line| line.contains("| `keepline.")) {
        let cells: Vec<&str> = line.split('|').map(|cell| cell.trim().trim_matches('`')).collect();
        let (key, label, value) = (cells[1], cells[2], cells[3]);
        assert_eq!(label, format!("keepline.{key}"));
        let said = [format!("#{key} = {value}"), format!("#{key} = \"{value}\"")];
        assert!(config.lines().any(|line| said.contains(&line.to_owned())), "{key} = {value}");
    }
    for key in ["listen", "socket", "group", "look-every"] {
        assert!(config.contains(&format!("\n#{key} = ")), "{key}");
        assert!(documents.contains(&format!("`{key}`")), "{key}");
    }
    // As it comes, it changes nothing.
    let live: Vec<&str> =
        config.lines().filter(|line| !line.starts_with('#') && !line.is_empty()).collect();
    assert_eq!(live, ["[guard]"]);
}
