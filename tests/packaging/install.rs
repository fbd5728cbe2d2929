//! `make install`.

use std::{fs, path::Path, process::Command};

use crate::tools::{Folder, KEEPLINE, repository, well};

fn install(destination: &Path, prefix: &str) -> String {
    well(
        Command::new(repository("scripts/install"))
            .env("KEEPLINE_CACHE", destination.join("cache"))
            .env("KEEPLINE_BINARY", KEEPLINE)
            .env("DESTDIR", destination)
            .env("PREFIX", prefix)
            .stdin(std::process::Stdio::null()),
    )
}

#[test]
fn the_unit_fits_the_place_and_a_configuration_stays() {
    for (prefix, config, command) in [
        ("/usr/local", "etc/keepline/config.toml", "/usr/local/bin/keepline guard"),
        (
            "/opt/k",
            "opt/k/etc/keepline/config.toml",
            "/opt/k/bin/keepline guard --config /opt/k/etc/keepline/config.toml",
        ),
    ] {
        let folder = Folder::new();
        let below = folder.0.join(prefix.trim_start_matches('/'));
        let said = install(&folder.0, prefix);
        let unit = fs::read_to_string(below.join("lib/systemd/system/keepline.service")).unwrap();
        assert!(unit.contains(&format!("\nExecStart={command}\n")), "{unit}");
        for line in said.lines() {
            assert!(line.starts_with(folder.0.to_str().unwrap()), "{line}");
            assert!(Path::new(line).exists(), "{line}");
        }
        let plugin = below.join("libexec/docker/cli-plugins/docker-keepline");
        well(Command::new(plugin).arg("docker-cli-plugin-metadata"));
        let config = folder.0.join(config);
        fs::write(&config, "strategy = \"off\"\n").unwrap();
        install(&folder.0, prefix);
        assert_eq!(fs::read_to_string(&config).unwrap(), "strategy = \"off\"\n");
    }
}
