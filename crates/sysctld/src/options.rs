//! The words of the command line.

use std::path::PathBuf;

use model::IdMap;

/// Keeps system containers: definitions in a database, guests below control groups, an API on a Unix socket.
#[derive(Debug, Clone, clap::Parser)]
#[command(name = "sysctld", version)]
pub(crate) struct Options {
    /// Where definitions, images and root file systems are kept
    #[arg(long, env = "SYSCTL_STATE_DIR", value_name = "DIR", default_value = "/var/lib/sysctl")]
    pub(crate) state_dir: PathBuf,
    /// Where the socket and the control files of running guests are; must not outlive a boot of the host
    #[arg(long, env = "SYSCTL_RUNTIME_DIR", value_name = "DIR", default_value = "/run/sysctl")]
    pub(crate) runtime_dir: PathBuf,
    /// Group whose members may use the socket; they are as good as root. Where there is none, root alone may
    #[arg(long, env = "SYSCTL_GROUP", value_name = "NAME", default_value = "sysctl")]
    pub(crate) group: String,
    /// Host ids for guests, like 1879048192:65536000 [default: a range that nobody has claimed]
    #[arg(long, env = "SYSCTL_ID_RANGE", value_name = "BASE:COUNT", value_parser = id_range)]
    pub(crate) id_range: Option<IdMap>,
    /// Recipes of images, instead of those that are built in
    #[arg(long, env = "SYSCTL_IMAGES_DIR", value_name = "DIR")]
    pub(crate) images_dir: Option<PathBuf>,
    /// Form of the log, which goes to standard error
    #[arg(long, env = "SYSCTL_LOG_FORMAT", value_enum, default_value_t = LogFormat::Text)]
    pub(crate) log_format: LogFormat,
    /// The least important lines that are logged
    #[arg(long, env = "SYSCTL_LOG_LEVEL", value_enum, default_value_t = LogLevel::Info)]
    pub(crate) log_level: LogLevel,
    /// Remove every instance, image, network and file of this state directory, and end
    #[arg(long)]
    pub(crate) purge: bool,
}

/// Form of the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum LogFormat {
    /// A line of words.
    Text,
    /// A JSON object per line.
    Json,
}

/// Importance of a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum LogLevel {
    /// Something could not be done.
    Error,
    /// Something is not as it should be.
    Warn,
    /// Something began or ended.
    Info,
    /// Every step.
    Debug,
}

/// Least ids of a daemon: those of the image child and of one instance.
const LEAST_IDS: u32 = 2 * IdMap::ORDINARY;

fn id_range(text: &str) -> Result<IdMap, String> {
    let (base, count) = text.split_once(':').ok_or("expected BASE:COUNT")?;
    let base: u32 = base.parse().map_err(|_| format!("{base:?} is no number from 0 to {}", u32::MAX))?;
    let count: u32 = count.parse().map_err(|_| format!("{count:?} is no number from 0 to {}", u32::MAX))?;
    let map = IdMap { base, count };
    if base < IdMap::ORDINARY {
        return Err(format!("the first id must be {} or more, as those below belong to the host", IdMap::ORDINARY));
    }
    if count < LEAST_IDS || map.end() > u64::from(u32::MAX) {
        return Err(format!("from {LEAST_IDS} ids up to the id {} are possible", u32::MAX - 1));
    }
    Ok(map)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn id_ranges_are_checked() {
        assert_eq!(id_range("1879048192:131072"), Ok(IdMap { base: 1_879_048_192, count: 131_072 }));
        for bad in ["", "5", "0:131072", "65536:65536", "4294901760:131072", "a:b", "-1:131072"] {
            assert!(id_range(bad).is_err(), "{bad}");
        }
    }
}
