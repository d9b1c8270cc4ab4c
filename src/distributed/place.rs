//! Which rank this process is, as its environment says.

use std::fmt;

use anyhow::{Context, Result, ensure};

/// Ports of groups whose launcher names none lie in 15000..25000, below those that the system gives out.
const FIRST_PORT: u64 = 15_000;
const PORTS: u64 = 10_000;

/// What started the processes of a group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Launcher {
    /// torchrun.
    Torchrun,
    /// RANK and WORLD_SIZE, set by something else.
    Environment,
    /// SLURM's srun.
    Slurm,
    /// OpenMPI's mpirun.
    OpenMpi,
}

impl fmt::Display for Launcher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Launcher::Torchrun => "torchrun",
            Launcher::Environment => "RANK and WORLD_SIZE",
            Launcher::Slurm => "srun",
            Launcher::OpenMpi => "mpirun",
        })
    }
}

/// The place of this process among those that were started together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// What says so.
    pub launcher: Launcher,
    /// Number of this process, from 0.
    pub rank: u32,
    /// Number of processes, at least 2.
    pub size: u32,
    /// Number of this process on its host, from 0: that of its GPU.
    pub local_rank: u32,
    /// Host of the store in which ranks meet.
    pub master: String,
    /// Its port.
    pub port: u16,
    /// True if torchrun's agent serves the store; else rank 0 does.
    pub by_agent: bool,
    /// True if this process serves the store.
    pub serves: bool,
    /// Starts of the group before this one: torchrun starts all ranks again when one fails.
    pub attempt: u32,
}

impl Place {
    /// The place that the environment gives; `None` for a process by itself, also if it is the only one of its launcher.
    ///
    /// RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR and MASTER_PORT win over SLURM's variables, those over OpenMPI's.
    ///
    /// # Errors
    /// Variables that are missing, or no numbers.
    pub fn of_environment() -> Result<Option<Place>> {
        Place::of(&Variables(&|name| std::env::var(name).ok()))
    }

    fn of(variables: &Variables) -> Result<Option<Place>> {
        let Some(found) = Found::in_(variables)? else {
            return Ok(None);
        };
        let Found {
            launcher,
            rank,
            size,
            local_rank,
        } = found;
        ensure!(
            rank < size,
            "{launcher}: this is rank {rank} of {size}; ranks count from 0"
        );
        if size == 1 {
            return Ok(None);
        }
        let (master, port) = meeting_place(variables, launcher)?;
        let by_agent = variables.text("TORCHELASTIC_USE_AGENT_STORE").as_deref() == Some("True");
        Ok(Some(Place {
            launcher,
            rank,
            size,
            local_rank,
            master,
            port,
            by_agent,
            serves: rank == 0 && !by_agent,
            attempt: variables.number("TORCHELASTIC_RESTART_COUNT")?.unwrap_or(0),
        }))
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "rank {} of {}", self.rank, self.size)
    }
}

/// Environment variables, by a function that tests replace.
struct Variables<'a>(&'a dyn Fn(&str) -> Option<String>);

impl Variables<'_> {
    fn text(&self, name: &str) -> Option<String> {
        (self.0)(name).filter(|value| !value.is_empty())
    }

    fn number(&self, name: &str) -> Result<Option<u32>> {
        let parse = |value: String| {
            let number = value.trim().parse().ok();
            number.with_context(|| {
                format!("{name} is {value:?} in the environment; want a number from 0 on")
            })
        };
        self.text(name).map(parse).transpose()
    }

    /// A number that must be there if `because` is.
    fn needed(&self, name: &str, because: &str) -> Result<u32> {
        self.number(name)?.with_context(|| {
            format!("{because} is set in the environment, and {name} is not; set both, or neither")
        })
    }
}

struct Found {
    launcher: Launcher,
    rank: u32,
    size: u32,
    local_rank: u32,
}

impl Found {
    fn in_(variables: &Variables) -> Result<Option<Found>> {
        let is = |name| variables.text(name).is_some();
        let local = |own: &str| -> Result<u32> {
            Ok(match variables.number("LOCAL_RANK")? {
                Some(given) => given,
                None => variables.number(own)?.unwrap_or(0),
            })
        };
        // Containers often say so.
        let by_itself = !is("RANK") && variables.number("WORLD_SIZE").is_ok_and(|n| n == Some(1));
        if (is("RANK") || is("WORLD_SIZE")) && !by_itself {
            return Ok(Some(Found {
                launcher: match is("TORCHELASTIC_RUN_ID") {
                    true => Launcher::Torchrun,
                    false => Launcher::Environment,
                },
                rank: variables.needed("RANK", "WORLD_SIZE")?,
                size: variables.needed("WORLD_SIZE", "RANK")?,
                local_rank: local("LOCAL_RANK")?,
            }));
        }
        // A batch script has most of SLURM's variables too; only what srun starts is a task of a step.
        if is("SLURM_STEP_ID") && is("SLURM_PROCID") {
            let size = match variables.number("SLURM_STEP_NUM_TASKS")? {
                Some(tasks) => tasks,
                None => variables.needed("SLURM_NTASKS", "SLURM_PROCID")?,
            };
            return Ok(Some(Found {
                launcher: Launcher::Slurm,
                rank: variables.needed("SLURM_PROCID", "SLURM_STEP_ID")?,
                size,
                local_rank: local("SLURM_LOCALID")?,
            }));
        }
        if is("OMPI_COMM_WORLD_RANK") {
            return Ok(Some(Found {
                launcher: Launcher::OpenMpi,
                rank: variables.needed("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE")?,
                size: variables.needed("OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_RANK")?,
                local_rank: local("OMPI_COMM_WORLD_LOCAL_RANK")?,
            }));
        }
        Ok(None)
    }
}

/// Host and port of the store.
fn meeting_place(variables: &Variables, launcher: Launcher) -> Result<(String, u16)> {
    let given = variables.text("MASTER_ADDR");
    let master = match (given, launcher) {
        (Some(host), _) => host,
        (None, Launcher::Slurm) => {
            let nodes = variables.text("SLURM_STEP_NODELIST");
            let nodes = nodes.or_else(|| variables.text("SLURM_JOB_NODELIST"));
            first_host(&nodes.context("SLURM_JOB_NODELIST is not set; set MASTER_ADDR")?)
        }
        (None, Launcher::OpenMpi) => {
            let here = variables.number("OMPI_COMM_WORLD_LOCAL_SIZE")?;
            ensure!(
                here.is_some() && here == variables.number("OMPI_COMM_WORLD_SIZE")?,
                "mpirun does not say where rank 0 is: on several hosts, name its host, with -x MASTER_ADDR=HOST"
            );
            "127.0.0.1".to_owned()
        }
        (None, Launcher::Torchrun | Launcher::Environment) => anyhow::bail!(
            "RANK and WORLD_SIZE are set in the environment, and MASTER_ADDR is not: name the host of rank 0"
        ),
    };
    // The same in all processes of a job, and another in the next.
    let job = match launcher {
        Launcher::Slurm => variables.text("SLURM_JOB_ID"),
        Launcher::OpenMpi => variables.text("PMIX_NAMESPACE"),
        Launcher::Torchrun | Launcher::Environment => None,
    };
    let port = match (variables.number("MASTER_PORT")?, job) {
        (Some(port), _) => {
            let number = u16::try_from(port).ok().filter(|port| *port > 0);
            number.with_context(|| {
                format!("MASTER_PORT is {port} in the environment; want a port, 1 to 65535")
            })?
        }
        (None, Some(job)) => (FIRST_PORT + number_of(&job) % PORTS) as u16,
        (None, None) => anyhow::bail!(
            "MASTER_PORT is not set in the environment: name a free port of the host {master}"
        ),
    };
    Ok((master, port))
}

/// The digits of a job's name as a number, modulo 2^64.
fn number_of(job: &str) -> u64 {
    let digits = job.bytes().filter(u8::is_ascii_digit);
    digits.fold(0, |number: u64, digit| {
        number
            .wrapping_mul(10)
            .wrapping_add(u64::from(digit - b'0'))
    })
}

/// The first host in a list of SLURM's, as `gpu[03-06,9],login`.
fn first_host(nodes: &str) -> String {
    let end = nodes.find([',', '[']).unwrap_or(nodes.len());
    let (name, rest) = nodes.split_at(end);
    let Some(range) = rest.strip_prefix('[') else {
        return name.to_owned();
    };
    let first = range.split([',', '-', ']']).next().unwrap_or_default();
    // A name may go on behind the brackets, or with more of them.
    let behind = range.split_once(']').map_or("", |(_, behind)| behind);
    let behind = behind.split(',').next().unwrap_or_default();
    match behind {
        "" => format!("{name}{first}"),
        more => first_host(&format!("{name}{first}{more}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(variables: &[(&str, &str)]) -> Result<Option<Place>> {
        let find = |name: &str| {
            let found = variables.iter().find(|(known, _)| *known == name);
            found.map(|(_, value)| (*value).to_owned())
        };
        Place::of(&Variables(&find))
    }

    const SLURM: [(&str, &str); 6] = [
        ("SLURM_STEP_ID", "0"),
        ("SLURM_PROCID", "5"),
        ("SLURM_NTASKS", "8"),
        ("SLURM_LOCALID", "1"),
        ("SLURM_JOB_NODELIST", "gpu[07-08,11],login1"),
        ("SLURM_JOB_ID", "1234567"),
    ];

    #[test]
    fn torchrun_says_all() {
        let found = place(&[
            ("RANK", "0"),
            ("WORLD_SIZE", "4"),
            ("LOCAL_RANK", "0"),
            ("MASTER_ADDR", "host1"),
            ("MASTER_PORT", "29400"),
            ("TORCHELASTIC_RUN_ID", "none"),
            ("TORCHELASTIC_USE_AGENT_STORE", "True"),
            ("TORCHELASTIC_RESTART_COUNT", "2"),
        ]);
        let want = Place {
            launcher: Launcher::Torchrun,
            rank: 0,
            size: 4,
            local_rank: 0,
            master: "host1".to_owned(),
            port: 29400,
            by_agent: true,
            serves: false,
            attempt: 2,
        };
        assert_eq!(found.unwrap(), Some(want));
    }

    #[test]
    fn slurm_and_openmpi_say_the_most_and_what_is_set_wins() {
        let found = place(&SLURM).unwrap().unwrap();
        assert_eq!((found.rank, found.size, found.local_rank), (5, 8, 1));
        assert_eq!((found.master.as_str(), found.port), ("gpu07", 19567));
        assert!(!found.serves);

        let mut named = SLURM.to_vec();
        named.extend([("MASTER_ADDR", "elsewhere"), ("MASTER_PORT", "7")]);
        named.extend([("RANK", "0"), ("WORLD_SIZE", "2"), ("LOCAL_RANK", "3")]);
        let found = place(&named).unwrap().unwrap();
        assert_eq!((found.rank, found.size, found.local_rank), (0, 2, 3));
        assert_eq!((found.master.as_str(), found.port), ("elsewhere", 7));
        assert!(found.serves);

        let mut ompi = vec![
            ("OMPI_COMM_WORLD_RANK", "1"),
            ("OMPI_COMM_WORLD_SIZE", "2"),
            ("OMPI_COMM_WORLD_LOCAL_RANK", "1"),
            ("OMPI_COMM_WORLD_LOCAL_SIZE", "2"),
            ("PMIX_NAMESPACE", "prterun-host-4711@1"),
        ];
        let found = place(&ompi).unwrap().unwrap();
        assert_eq!((found.master.as_str(), found.port), ("127.0.0.1", 22_111));
        ompi[3] = ("OMPI_COMM_WORLD_LOCAL_SIZE", "1");
        let error = place(&ompi).unwrap_err().to_string();
        assert!(error.contains("-x MASTER_ADDR=HOST"), "{error}");
    }

    #[test]
    fn a_process_by_itself_is_in_no_group() {
        assert_eq!(place(&[]).unwrap(), None);
        // The only process of torchrun.
        assert_eq!(place(&[("RANK", "0"), ("WORLD_SIZE", "1")]).unwrap(), None);
        assert_eq!(place(&[("WORLD_SIZE", "1")]).unwrap(), None);
        // A batch script of SLURM, outside of srun.
        assert_eq!(place(&SLURM[1..]).unwrap(), None);
        // The one task of an interactive step in a larger allocation.
        let mut interactive = SLURM.to_vec();
        interactive[1] = ("SLURM_PROCID", "0");
        interactive.push(("SLURM_STEP_NUM_TASKS", "1"));
        assert_eq!(place(&interactive).unwrap(), None);
    }

    #[test]
    fn what_is_missing_or_wrong_is_named() {
        for (variables, want) in [
            (vec![("RANK", "0")], "WORLD_SIZE is not"),
            (vec![("WORLD_SIZE", "2")], "RANK is not"),
            (vec![("RANK", "x"), ("WORLD_SIZE", "2")], "RANK is \"x\""),
            (vec![("RANK", "-1"), ("WORLD_SIZE", "2")], "from 0 on"),
            (vec![("RANK", "2"), ("WORLD_SIZE", "2")], "rank 2 of 2"),
            (
                vec![
                    ("RANK", "0"),
                    ("WORLD_SIZE", "2"),
                    ("MASTER_ADDR", "h"),
                    ("MASTER_PORT", "0"),
                ],
                "MASTER_PORT is 0",
            ),
            (vec![("RANK", "0"), ("WORLD_SIZE", "2")], "MASTER_ADDR"),
            (
                vec![("RANK", "0"), ("WORLD_SIZE", "2"), ("MASTER_ADDR", "h")],
                "MASTER_PORT",
            ),
        ] {
            let error = place(&variables).unwrap_err().to_string();
            assert!(error.contains(want), "{error}");
        }
    }

    #[test]
    fn the_first_host_of_a_list() {
        for (nodes, want) in [
            ("one", "one"),
            ("one,two", "one"),
            ("gpu[03-06,9],x", "gpu03"),
            ("gpu[3,5]", "gpu3"),
            ("rack[1-2]-n[07-09]", "rack1-n07"),
            ("a[1-2].local,b", "a1.local"),
        ] {
            assert_eq!(first_host(nodes), want);
        }
    }
}
