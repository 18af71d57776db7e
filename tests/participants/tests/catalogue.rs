//! Plays tests/scenarios/catalogue with subjects: programs in any language, on real databases, with the real coordinator. Build the binary first
//! (`cargo build -p amends-server`).

use amends_interop::{Databases, WithXa};
use amends_participants::Books;
use amends_scenarios::{Client, DEADLINE, World, free_port};
use http::Method;
use serde::Deserialize;
use serde_json::{Value, json};
use sqlx::{MySql, Pool, Postgres};
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::time::Instant;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Catalogue {
    #[serde(rename = "about")]
    _about: String,
    scenarios: Vec<Scenario>,
    disorder: Vec<Disorder>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Scenario {
    name: String,
    mode: String,
    branches: Vec<Branch>,
    /// Of a message: its local transaction is refused.
    #[serde(default)]
    refused: bool,
    die: Option<Value>,
    /// Nothing if it dies.
    returns: Option<String>,
    status: String,
    book: Vec<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Branch {
    name: String,
    on: String,
    #[serde(default)]
    refuse: String,
    #[serde(default)]
    local: bool,
    /// Of a workflow: it is committed in phase 2.
    #[serde(default)]
    confirm: bool,
    #[serde(default)]
    children: Vec<Branch>,
}

/// Calls of one branch, one after the other or all together.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Disorder {
    name: String,
    trans_type: String,
    calls: Vec<String>,
    #[serde(default)]
    together: bool,
    /// All 200 unless said.
    answers: Option<Vec<u16>>,
    book: Vec<String>,
}

fn catalogue() -> Catalogue {
    let text = include_str!("../../scenarios/catalogue/catalogue.json");
    serde_json::from_str(text).expect("the catalogue")
}

/// A program that plays a place.
struct Subject {
    command: Vec<String>,
    env: Vec<(String, String)>,
    port: u16,
    child: Child,
}

impl Subject {
    fn start(command: &[String], server: &str, database: &str) -> Subject {
        let port = free_port();
        let env = [
            ("AMENDS_SERVER", server.to_owned()),
            ("AMENDS_DATABASE", database.to_owned()),
            ("AMENDS_PORT", port.to_string()),
        ];
        let env: Vec<_> = env.map(|(k, v)| (k.to_owned(), v)).into();
        let child = Subject::spawn(command, &env);
        Subject {
            command: command.to_vec(),
            env,
            port,
            child,
        }
    }

    fn spawn(command: &[String], env: &[(String, String)]) -> Child {
        let mut child = Command::new(&command[0])
            .args(&command[1..])
            .envs(env.iter().cloned())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap_or_else(|e| panic!("{command:?}: {e}"));
        let mut line = String::new();
        let stdout = child.stdout.take().expect("its output");
        let read = BufReader::new(stdout).read_line(&mut line);
        assert!(
            read.is_ok() && line.trim() == "ready",
            "{command:?} is not ready: {line:?}"
        );
        child
    }

    /// Whether it has died; then it is there again.
    fn reborn(&mut self) -> bool {
        let end = Instant::now() + DEADLINE;
        while self.child.try_wait().expect("its end").is_none() {
            if Instant::now() > end {
                return false;
            }
            std::thread::yield_now();
        }
        self.child = Subject::spawn(&self.command, &self.env);
        true
    }

    fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    fn client(&self) -> Client {
        Client::new(([127, 0, 0, 1], self.port).into())
    }
}

impl Drop for Subject {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

struct Stage<'a> {
    w: &'a World,
    name: String,
    /// Who plays which place; A begins.
    places: BTreeMap<String, usize>,
    subjects: Vec<Subject>,
    mysql: Pool<MySql>,
    postgres: Pool<Postgres>,
}

impl Stage<'_> {
    fn at(&self, place: &str) -> &Subject {
        &self.subjects[self.places[place]]
    }

    fn address(&self, branch: &Branch) -> Value {
        let children: Vec<Value> = branch.children.iter().map(|b| self.address(b)).collect();
        let task = json!({"name": branch.name, "refuse": branch.refuse, "children": children});
        json!({
            "url": format!("{}/branch", self.at(&branch.on).url()),
            "payload": task.to_string(),
            "local": branch.local,
            "confirm": branch.confirm,
        })
    }

    async fn book(&self, gid: &str) -> Vec<String> {
        let mut lines = MySql::lines(&self.mysql, gid).await;
        lines.extend(Postgres::lines(&self.postgres, gid).await);
        lines.sort();
        lines
    }

    async fn play(&mut self, scenario: &Scenario) {
        let gid = format!("{}-{}", self.name, scenario.name);
        let mut branches: Vec<Value> = scenario.branches.iter().map(|b| self.address(b)).collect();
        if scenario.refused {
            branches.push(json!({"url": "", "payload": "refuse"}));
        }
        let run = json!({
            "mode": scenario.mode,
            "gid": gid,
            "me": self.at("A").url(),
            "branches": branches,
            "die": scenario.die,
        });
        let client = self.at("A").client();
        let sent = client.send(Method::POST, "/run", run.to_string()).await;
        if scenario.die.is_some() {
            assert!(sent.is_err(), "{gid}: it did not die: {sent:?}");
            let at = self.places["A"];
            assert!(self.subjects[at].reborn(), "{gid}: it did not die");
        } else {
            let answer = sent.unwrap_or_else(|e| panic!("{gid}: {e}"));
            let returned = answer.json();
            let want = scenario.returns.as_deref();
            assert_eq!(returned["returns"].as_str(), want, "{gid}: {returned}");
        }
        self.w.dtm.wait_status(&gid, &scenario.status).await;
        assert_eq!(self.book(&gid).await, scenario.book, "{gid}");
        if scenario.mode == "xa" {
            let maria = MySql::prepared(&self.mysql).await;
            let pg = Postgres::prepared(&self.postgres).await;
            assert!(
                maria.is_empty() && pg.is_empty(),
                "{gid}: prepared at its end: {maria:?} {pg:?}"
            );
        }
    }

    async fn disorder(&self, disorder: &Disorder) {
        let gid = format!("{}-{}", self.name, disorder.name);
        let client = self.at("A").client();
        let mut answers = Vec::new();
        let calls = disorder.calls.iter().map(|op| {
            let path = format!(
                "/branch?gid={gid}&trans_type={}&branch_id=01&op={op}",
                disorder.trans_type
            );
            let client = client.clone();
            async move {
                let body = json!({"name": "it"}).to_string();
                let sent = client.send(Method::POST, &path, body).await;
                sent.unwrap_or_else(|e| panic!("{path}: {e}")).status
            }
        });
        if disorder.together {
            answers = futures_util::future::join_all(calls).await;
        } else {
            for call in calls {
                answers.push(call.await);
            }
        }
        let all = vec![200; disorder.calls.len()];
        assert_eq!(answers, *disorder.answers.as_ref().unwrap_or(&all), "{gid}");
        assert_eq!(self.book(&gid).await, disorder.book, "{gid}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_scenario_in_every_cast() {
    let w = World::start().await;
    let databases = Databases::start();
    let mysql = databases.mariadb().url("mysql");
    let postgres = databases.postgres().url("postgres");
    let pools = (
        MySql::connect(&mysql).await,
        Postgres::connect(&postgres).await,
    );
    MySql::create(&pools.0).await;
    Postgres::create(&pools.1).await;

    let rust = vec![env!("CARGO_BIN_EXE_subject").to_owned()];
    let other = std::env::var("AMENDS_SUBJECT").ok();
    let other = other.map(|line| line.split(' ').map(str::to_owned).collect::<Vec<_>>());
    // Name, and the programs: alone, or as A and B.
    let mut casts = vec![("alone", vec![&rust]), ("apart", vec![&rust, &rust])];
    if let Some(other) = &other {
        casts.extend([
            ("other", vec![other]),
            ("first", vec![other, &rust]),
            ("second", vec![&rust, other]),
        ]);
    }
    let server = format!("http://{}", w.server.addr());
    let catalogue = catalogue();
    for (name, programs) in casts {
        let databases = [&mysql, &postgres];
        let subjects = programs.iter().zip(databases);
        let subjects: Vec<_> = subjects
            .map(|(program, database)| Subject::start(program, &server, database))
            .collect();
        let last = subjects.len() - 1;
        let mut stage = Stage {
            w: &w,
            name: name.to_owned(),
            places: [("A".to_owned(), 0), ("B".to_owned(), last)].into(),
            subjects,
            mysql: pools.0.clone(),
            postgres: pools.1.clone(),
        };
        for scenario in &catalogue.scenarios {
            stage.play(scenario).await;
        }
        for disorder in &catalogue.disorder {
            stage.disorder(disorder).await;
        }
        println!(
            "{name}: {} scenarios, {} disorders",
            catalogue.scenarios.len(),
            catalogue.disorder.len()
        );
    }
}
