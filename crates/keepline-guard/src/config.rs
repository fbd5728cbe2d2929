//! The guard's file: what holds, and how the guard itself runs. A value that says nothing leaves
//! what it speaks of as it was; a file that cannot be read at all leaves everything.

use std::{
    collections::BTreeMap,
    fs, io,
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use keepline_core::{
    duration,
    policy::{Invalid, Layer, Object, Rules},
};
use thiserror::Error;
use toml::{Table, Value};

/// Where the file is looked for.
pub const FILE: &str = "/etc/keepline/config.toml";

/// Where metrics are told unless the file says otherwise: to this machine only.
const LISTEN: &str = "127.0.0.1:9745";

/// The group that the package makes.
pub(crate) const GROUP: &str = "keepline";

/// The shortest and longest time between two looks.
const LOOKS: [Duration; 2] = [Duration::from_secs(1), Duration::from_secs(3600)];

/// Why a file says nothing at all.
#[derive(Debug, Error)]
pub enum ConfigError {
    /// It could not be read.
    #[error("read {}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// It is not TOML.
    #[error("{}: {message}", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// Where, and what is wrong.
        message: String,
    },
}

/// What the file says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// What holds where.
    pub rules: Rules,
    /// Where metrics are told; absent: nowhere.
    pub listen: Option<SocketAddr>,
    /// The control socket; absent: beside the journal.
    pub socket: Option<PathBuf>,
    /// The group that may use it besides root; absent: [`GROUP`], where there is such a group.
    pub group: Option<String>,
    /// The longest time between two looks; absent: as what is held wants it.
    pub look_every: Option<Duration>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            rules: Rules::default(),
            listen: LISTEN.parse().ok(),
            socket: None,
            group: None,
            look_every: None,
        }
    }
}

impl Config {
    /// Reads a file. One that is not there says nothing, unless it was `named`. Where a value makes no
    /// sense, `before` holds on.
    ///
    /// # Errors
    /// When the file cannot be read or is not TOML.
    pub fn load(
        path: &Path,
        named: bool,
        before: &Self,
    ) -> Result<(Self, Vec<Invalid>), ConfigError> {
        match fs::read_to_string(path) {
            Ok(text) => Self::parse(&text, before)
                .map_err(|message| ConfigError::Malformed { path: path.to_owned(), message }),
            Err(error) if error.kind() == io::ErrorKind::NotFound && !named => {
                Ok((Self::default(), Vec::new()))
            }
            Err(source) => Err(ConfigError::Read { path: path.to_owned(), source }),
        }
    }

    fn parse(text: &str, before: &Self) -> Result<(Self, Vec<Invalid>), String> {
        let table: Table = text.parse().map_err(|error: toml::de::Error| {
            let line = error.span().map_or(0, |span| text[..span.start].matches('\n').count() + 1);
            format!("line {line}: {}", error.message())
        })?;
        let mut reader = Reader { invalid: Vec::new() };
        let mut config = Self::default();
        let mut own = Table::new();
        for (key, value) in table {
            match (key.as_str(), value) {
                ("network", Value::Table(table)) => {
                    config.rules.networks =
                        reader.layers(table, Object::Network, &before.rules.networks);
                }
                ("service", Value::Table(table)) => {
                    config.rules.services =
                        reader.layers(table, Object::Service, &before.rules.services);
                }
                ("guard", Value::Table(table)) => reader.guard(table, &mut config, before),
                (_, value) => {
                    own.insert(key, value);
                }
            }
        }
        config.rules.everything = reader.layer(own, &Object::Everything, &before.rules.everything);
        Ok((config, reader.invalid))
    }
}

struct Reader {
    invalid: Vec<Invalid>,
}

impl Reader {
    fn layers(
        &mut self,
        table: Table,
        object: fn(String) -> Object,
        before: &BTreeMap<String, Layer>,
    ) -> BTreeMap<String, Layer> {
        let nothing = Layer::default();
        let layers = table.into_iter().map(|(name, value)| {
            let object = object(name.clone());
            let before = before.get(&name).unwrap_or(&nothing);
            let Value::Table(table) = value else {
                self.wrong(&object, "", &value, "write it as a table of its own");
                return (name, before.clone());
            };
            let layer = self.layer(table, &object, before);
            (name, layer)
        });
        layers.collect()
    }

    fn layer(&mut self, table: Table, object: &Object, before: &Layer) -> Layer {
        let wrong = self.invalid.len();
        let mut layer = Layer::default();
        for (key, value) in table {
            if let Err(why) = word(&value).and_then(|word| layer.set(&key, &word)) {
                self.wrong(object, &key, &value, &why);
            }
        }
        if self.invalid.len() == wrong { layer } else { before.clone() }
    }

    fn guard(&mut self, table: Table, config: &mut Config, before: &Config) {
        for (key, value) in table {
            let result =
                word(&value).and_then(|word| match key.as_str() {
                    "listen" => listen(&word).map(|it| config.listen = it),
                    "socket" => absolute(&word).map(|it| config.socket = Some(it)),
                    "group" => {
                        config.group = Some(word);
                        Ok(())
                    }
                    "look-every" => look_every(&word).map(|it| config.look_every = Some(it)),
                    _ => Err("there is no such key; there are listen, socket, group, look-every"
                        .to_owned()),
                });
            let Err(why) = result else { continue };
            match key.as_str() {
                "listen" => config.listen = before.listen,
                "socket" => config.socket.clone_from(&before.socket),
                "look-every" => config.look_every = before.look_every,
                _ => {}
            }
            self.wrong(&Object::Everything, &format!("guard.{key}"), &value, &why);
        }
    }

    fn wrong(&mut self, object: &Object, key: &str, value: &Value, why: &str) {
        self.invalid.push(Invalid {
            object: object.clone(),
            label: false,
            key: key.to_owned(),
            value: word(value).unwrap_or_else(|_| value.type_str().to_owned()),
            why: why.to_owned(),
        });
    }
}

/// A value as it would stand in a label.
fn word(value: &Value) -> Result<String, String> {
    match value {
        Value::String(text) => Ok(text.clone()),
        Value::Integer(number) => Ok(number.to_string()),
        Value::Boolean(yes) => Ok(yes.to_string()),
        _ => Err("write a text, a number, true or false".to_owned()),
    }
}

/// Reads an address to listen on, or `off`.
///
/// # Errors
/// What would be right.
pub fn listen(text: &str) -> Result<Option<SocketAddr>, String> {
    if text == "off" {
        return Ok(None);
    }
    text.parse().map(Some).map_err(|_| format!("write ADDRESS:PORT, as in {LISTEN}, or off"))
}

fn absolute(text: &str) -> Result<PathBuf, String> {
    let path = Path::new(text);
    let absolute = path.is_absolute().then(|| path.to_owned());
    absolute.ok_or_else(|| "write a path that begins with /".to_owned())
}

fn look_every(text: &str) -> Result<Duration, String> {
    let time = duration::parse(text).map_err(|error| error.to_string())?;
    let [least, most] = LOOKS;
    if time < least || time > most {
        let (least, most) = (duration::human(least), duration::human(most));
        return Err(format!("write a time from {least} to {most}"));
    }
    Ok(time)
}

#[cfg(test)]
mod tests {
    use keepline_core::policy::{Policies, Remembered, Strategy};

    use super::*;

    fn everything(config: &Config) -> Strategy {
        let (policies, _) = Policies::of(&config.rules, None, &mut Remembered::default());
        policies.everything.strategy.value
    }

    #[test]
    fn a_file_says_what_holds_where() {
        let text = "strategy = \"timeout\"\ntcp-timeout = \"2h\"\nkeepalive-probes = 5\n\
                    heal = false\n[guard]\nlisten = \"off\"\nlook-every = \"5s\"\n\
                    [network.backend]\nstrategy = \"hold\"\n[service.db]\nstrategy = \"off\"\n";
        let (config, invalid) = Config::parse(text, &Config::default()).unwrap();
        assert_eq!(invalid, []);
        assert_eq!(everything(&config), Strategy::Timeout);
        assert_eq!(config.listen, None);
        assert_eq!(config.look_every, Some(Duration::from_secs(5)));
        assert!(config.rules.networks.contains_key("backend"));
        assert!(config.rules.services.contains_key("db"));
    }

    #[test]
    fn a_wrong_value_leaves_its_object_as_it_was_and_nothing_else() {
        let good = "strategy = \"hold\"\n[network.a]\nstrategy = \"off\"\n";
        let (before, _) = Config::parse(good, &Config::default()).unwrap();
        let wrong = "strategy = \"rehash\"\n[network.a]\nstrategy = \"offf\"\n\
                     [guard]\nlook-every = \"0s\"\nlisten = \"everywhere\"\n";
        let (after, invalid) = Config::parse(wrong, &before).unwrap();
        let said: Vec<String> = invalid.iter().map(ToString::to_string).collect();
        assert_eq!(said.len(), 3, "{said:?}");
        assert!(said.iter().any(|it| it.starts_with("network a: strategy = `offf`: write one of")));
        assert!(said.iter().any(|it| it.contains("guard.look-every = `0s`")));
        assert_eq!(everything(&after), Strategy::Rehash);
        assert_eq!(after.rules.networks, before.rules.networks);
        assert_eq!(after.listen, before.listen);
    }

    #[test]
    fn what_is_not_toml_says_where() {
        let error = Config::parse("strategy = \"hold\"\nnetwork = [", &Config::default());
        assert!(error.unwrap_err().starts_with("line 2: "));
    }

    #[test]
    fn a_file_that_was_named_must_be_there() {
        let path = Path::new("/nonexistent/keepline.toml");
        assert!(Config::load(path, false, &Config::default()).is_ok());
        let error = Config::load(path, true, &Config::default()).unwrap_err();
        assert!(error.to_string().starts_with("read /nonexistent/keepline.toml: "));
    }
}
