//! The ways to the backend: what is on each, and what could not be set up here, with the reason.

use std::{fs, path::Path, thread, time::Duration};

use keepline_bpf::{
    Direct, Keepalive,
    direct::{Backend, Config, Protocol, Service, Vip},
    keepalive,
};

use crate::ground::{ANSWERED, BACKEND, Ground, Program, run};

type Error = Box<dyn std::error::Error>;

/// A way that a client takes.
#[derive(Debug)]
pub struct Way {
    pub name: &'static str,
    /// Where the client connects to.
    pub host: &'static str,
    pub client: Program,
    _proxy: Option<Program>,
}

/// All ways that can be set up here, the reference first, and why others cannot.
pub fn all(ground: &mut Ground, this: &str) -> Result<(Vec<Way>, Vec<String>), Error> {
    apply_direct(ground)?;
    apply_keepalive(ground)?;
    let mut missing = Vec::new();
    let mut ways = Vec::new();
    let mut way = |ground: &Ground, name, group, host, proxy| -> Result<(), Error> {
        let mut client = ground.start("client", group, &[this, "client"])?;
        client.answer()?;
        ways.push(Way { name, host, client, _proxy: proxy });
        Ok(())
    };
    way(ground, "backend directly", "plain", BACKEND, None)?;
    // The same once more: as far apart as these two are, nothing is told by the others.
    way(ground, "backend directly, again", "plain", BACKEND, None)?;
    way(ground, "keepline direct", "direct", ANSWERED, None)?;
    way(ground, "directly, with keepline keepalive", "keepalive", BACKEND, None)?;
    match ipvs(ground) {
        Ok(host) => way(ground, "IPVS as Swarm has it", "plain", host, None)?,
        Err(why) => missing.push(format!("IPVS: {why}")),
    }
    match nftables(ground) {
        Ok(host) => way(ground, "nftables DNAT", "plain", host, None)?,
        Err(why) => missing.push(format!("nftables DNAT: {why}")),
    }
    match haproxy(ground) {
        Ok((host, proxy)) => way(ground, "HAProxy, TCP mode", "plain", host, Some(proxy))?,
        Err(why) => missing.push(format!("HAProxy: {why}")),
    }
    Ok((ways, missing))
}

fn apply_direct(ground: &Ground) -> Result<(), Error> {
    let vip = Vip {
        netns: ground.cookie("client")?,
        address: ANSWERED.parse()?,
        port: None,
        protocol: Protocol::Tcp,
    };
    let backends = vec![Backend { address: BACKEND.parse()?, port: None, weight: 1 }];
    Direct::apply(&Config {
        bpffs: ground.bpffs(),
        cgroup: ground.cgroup("direct")?,
        services: vec![Service { vip, backends }],
    })?;
    Ok(())
}

/// By a rule of the client's namespace, which costs more than a setting for all.
fn apply_keepalive(ground: &Ground) -> Result<(), Error> {
    let settings = keepalive::Settings {
        idle: Duration::from_secs(300),
        interval: Duration::from_secs(75),
        probes: None,
        enforce: true,
    };
    let netns = ground.cookie("client")?;
    let selector = keepalive::Selector { netns, peer: None, port: None };
    Keepalive::apply(&keepalive::Config {
        bpffs: ground.bpffs(),
        cgroup: ground.cgroup("keepalive")?,
        rules: vec![keepalive::Rule { selector, settings: Some(settings) }],
        others: None,
    })?;
    Ok(())
}

/// Mark, fwmark service, masquerading and SNAT (facts of Engine 18.09 and later).
fn ipvs(ground: &mut Ground) -> Result<&'static str, Error> {
    const VIP: &str = "10.240.0.3";
    let _ = run("modprobe ip_vs");
    if !Path::new("/proc/net/ip_vs").exists() {
        return Err("not in this kernel; `scripts/bench paths-guest` measures it in a guest".into());
    }
    ground.director(
        "ipvs",
        VIP,
        "10.240.0.30",
        &format!(
            "on iptables -t mangle -A INPUT -d {VIP} -j MARK --set-mark 256
             on iptables -t nat -A POSTROUTING -m ipvs --ipvs -j SNAT --to-source 10.240.0.30
             on ipvsadm -A -f 256 -s rr
             on ipvsadm -a -f 256 -r {BACKEND} -m
             on sysctl -qw net.ipv4.vs.conntrack=1 net.ipv4.vs.conn_reuse_mode=0 \
                net.ipv4.vs.expire_nodest_conn=1"
        ),
    )?;
    Ok(VIP)
}

fn nftables(ground: &mut Ground) -> Result<&'static str, Error> {
    const VIP: &str = "10.240.0.4";
    ground.director(
        "nft",
        VIP,
        "10.240.0.40",
        &format!(
            "on nft 'table ip nat {{
                chain in {{ type nat hook prerouting priority dstnat; ip daddr {VIP} dnat to {BACKEND}; }}
                chain out {{ type nat hook postrouting priority srcnat; ip daddr {BACKEND} snat to 10.240.0.40; }}
             }}'"
        ),
    )?;
    Ok(VIP)
}

/// `HAPROXY` names the program, with its arguments' separator a blank.
fn haproxy(ground: &mut Ground) -> Result<(&'static str, Program), Error> {
    const VIP: &str = "10.240.0.5";
    let program = std::env::var("HAPROXY").unwrap_or_else(|_| "haproxy".to_owned());
    let words: Vec<&str> = program.split_whitespace().collect();
    let version = std::process::Command::new(words.first().copied().unwrap_or_default())
        .args(words.get(1..).unwrap_or_default())
        .arg("-v")
        .output()
        .map_err(|error| format!("`{program}`: {error}"))?;
    println!("{}", String::from_utf8_lossy(&version.stdout).lines().next().unwrap_or_default());
    // Its own connections to the backend: ports must not run out there either.
    ground.director("haproxy", VIP, "10.240.0.50", "on sysctl -qw net.ipv4.tcp_tw_reuse=1")?;
    let config = ground.file("haproxy.cfg");
    fs::write(
        &config,
        format!(
            "global\n maxconn 4096\n\
             defaults\n mode tcp\n timeout connect 5s\n timeout client 1m\n timeout server 1m\n\
             listen requests\n bind {VIP}:7000\n server one {BACKEND}:7000\n\
             listen bulk\n bind {VIP}:7001\n server one {BACKEND}:7001\n"
        ),
    )?;
    let file = config.display().to_string();
    let command = [&words[..], &["-db", "-f", &file]].concat();
    let mut proxy = ground.start("haproxy", "plain", &command)?;
    // Read at its start only.
    let answers = (0..100).any(|_| {
        thread::sleep(Duration::from_millis(50));
        let listens = format!("ip netns exec {} ss -Htln sport = :7001", ground.netns("haproxy"));
        run(&listens).is_ok_and(|text| !text.is_empty())
    });
    fs::remove_file(&config)?;
    if !answers || proxy.has_ended() {
        return Err(format!("`{program}` did not start").into());
    }
    Ok((VIP, proxy))
}
