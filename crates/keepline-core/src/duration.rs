//! Durations as people write them (`90s`, `15m`, `2h`, `1h30m`) and as they read them.

use std::time::Duration;

use thiserror::Error;

/// Why a text is no duration.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("`{text}` is not a duration: write for example 90s, 15m, 2h or 1h30m")]
pub struct DurationError {
    text: String,
}

const UNITS: [(&str, u64); 4] = [("d", 86_400), ("h", 3_600), ("m", 60), ("s", 1)];

/// Reads `90s`, `15m`, `2h`, `1h30m`, `500ms`, `1d`.
///
/// # Errors
/// When the text is empty, a unit is missing or unknown, or the sum does not fit.
pub fn parse(text: &str) -> Result<Duration, DurationError> {
    let error = || DurationError { text: text.to_owned() };
    let mut rest = text.trim();
    let mut total = Duration::ZERO;
    if rest.is_empty() {
        return Err(error());
    }
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit()).ok_or_else(error)?;
        let number: u64 = rest[..digits].parse().map_err(|_| error())?;
        rest = &rest[digits..];
        let part = if let Some(after) = rest.strip_prefix("ms") {
            rest = after;
            Duration::from_millis(number)
        } else {
            let (unit, seconds) =
                UNITS.iter().find(|(unit, _)| rest.starts_with(unit)).ok_or_else(error)?;
            rest = &rest[unit.len()..];
            Duration::from_secs(number.checked_mul(*seconds).ok_or_else(error)?)
        };
        total = total.checked_add(part).ok_or_else(error)?;
    }
    Ok(total)
}

/// Two units at the most: `4.2s`, `47s`, `13m 20s`, `1h 58m`, `5d 0h`.
#[must_use]
pub fn human(duration: Duration) -> String {
    let seconds = duration.as_secs();
    match seconds {
        0..=9 => {
            let tenths = duration.as_millis() / 100;
            if tenths.is_multiple_of(10) {
                format!("{}s", tenths / 10)
            } else {
                format!("{}.{}s", tenths / 10, tenths % 10)
            }
        }
        10..=119 => format!("{seconds}s"),
        120..=3599 if seconds.is_multiple_of(60) => format!("{}m", seconds / 60),
        120..=3599 => format!("{}m {}s", seconds / 60, seconds % 60),
        3600..=172_799 if seconds % 3600 < 60 => format!("{}h", seconds / 3600),
        3600..=172_799 => format!("{}h {}m", seconds / 3600, seconds % 3600 / 60),
        _ => format!("{}d {}h", seconds / 86_400, seconds % 86_400 / 3600),
    }
}

/// Serde form: seconds as a number, to the millisecond.
pub mod seconds {
    use std::time::Duration;

    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    /// Seconds rounded to the millisecond.
    #[must_use]
    pub fn rounded(duration: Duration) -> f64 {
        (duration.as_secs_f64() * 1000.0).round() / 1000.0
    }

    /// Writes seconds.
    ///
    /// # Errors
    /// Those of the serializer.
    pub fn serialize<S: Serializer>(duration: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_f64(rounded(*duration))
    }

    /// Reads seconds.
    ///
    /// # Errors
    /// When the number is negative, not finite, or too large.
    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
        let seconds = f64::deserialize(deserializer)?;
        Duration::try_from_secs_f64(seconds).map_err(|_| {
            D::Error::custom(format!("{seconds} is not a number of seconds from 0 up"))
        })
    }

    /// The same for a duration that may be absent.
    pub mod option {
        use std::time::Duration;

        use serde::{Deserialize, Deserializer, Serializer};

        /// Writes seconds or null.
        ///
        /// # Errors
        /// Those of the serializer.
        pub fn serialize<S: Serializer>(
            duration: &Option<Duration>,
            serializer: S,
        ) -> Result<S::Ok, S::Error> {
            match duration {
                Some(duration) => super::serialize(duration, serializer),
                None => serializer.serialize_none(),
            }
        }

        /// Reads seconds or null.
        ///
        /// # Errors
        /// As for a duration that is there.
        pub fn deserialize<'de, D: Deserializer<'de>>(
            deserializer: D,
        ) -> Result<Option<Duration>, D::Error> {
            #[derive(Deserialize)]
            struct Seconds(#[serde(with = "super")] Duration);
            Ok(Option::<Seconds>::deserialize(deserializer)?.map(|Seconds(duration)| duration))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_people_write() {
        assert_eq!(parse("90s"), Ok(Duration::from_secs(90)));
        assert_eq!(parse("1h30m"), Ok(Duration::from_secs(5400)));
        assert_eq!(parse("500ms"), Ok(Duration::from_millis(500)));
        for bad in ["", "15", "m", "1x", "-5s", "99999999999999999999s", "1.5h"] {
            assert!(parse(bad).is_err(), "{bad} was taken");
        }
    }

    #[test]
    fn durations_people_read() {
        let cases = [
            (400, "0.4s"),
            (8_000, "8s"),
            (47_900, "47s"),
            (800_000, "13m 20s"),
            (900_000, "15m"),
            (7_200_000, "2h"),
            (7_080_000, "1h 58m"),
            (432_000_000, "5d 0h"),
        ];
        for (millis, text) in cases {
            assert_eq!(human(Duration::from_millis(millis)), text);
        }
    }
}
