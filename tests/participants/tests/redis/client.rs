//! A connection to Redis for tests that wait for each answer.

use amends::adapters::redis::{Branch, Ran};
use amends::participant::redis::{DEFAULT_TTL, Work};
use amends::participant::{BarrierResult, BranchResult, Identity};
use amends::{Error, ErrorKind};
use amends_interop::Redis;
use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, Cmd, FromRedisValue, Value};
use std::time::Duration;
use tokio::runtime::{Builder, Runtime};

/// One connection.
pub(crate) struct Client {
    runtime: Runtime,
    conn: MultiplexedConnection,
}

impl Client {
    pub(crate) fn new(redis: &Redis) -> Client {
        Client::of(redis.port())
    }

    pub(crate) fn of(port: u16) -> Client {
        Client::at(&format!("redis://127.0.0.1:{port}"))
    }

    pub(crate) fn at(url: &str) -> Client {
        let runtime = Builder::new_current_thread().enable_all().build();
        let runtime = runtime.expect("a runtime");
        let patience = Some(Duration::from_secs(30));
        let config = AsyncConnectionConfig::new().set_response_timeout(patience);
        let client = redis::Client::open(url).expect("an address");
        let conn = client.get_multiplexed_async_connection_with_config(&config);
        let conn = runtime.block_on(conn).expect("a connection");
        Client { runtime, conn }
    }

    fn query<T: FromRedisValue>(&mut self, command: &Cmd) -> T {
        let answer = self.runtime.block_on(command.query_async(&mut self.conn));
        answer.expect("an answer")
    }

    /// A command of plain words.
    pub(crate) fn run(&mut self, command: &str) -> Value {
        let mut words = Cmd::new();
        for word in command.split(' ') {
            words.arg(word);
        }
        self.query(&words)
    }

    /// A branch call, with what its body returned.
    pub(crate) fn call(
        &mut self,
        who: &Identity,
        work: &Work,
    ) -> (Result<BarrierResult, Error>, Option<Value>) {
        match self.call_of(&branch(who), work) {
            Ok(ran) => (Ok(ran.result()), ran.into_value()),
            Err(error) => (Err(error), None),
        }
    }

    pub(crate) fn call_of(&mut self, branch: &Branch, work: &Work) -> Result<Ran, Error> {
        self.runtime.block_on(branch.run(&mut self.conn, work))
    }

    /// Takes or gives back.
    pub(crate) fn adjust(
        &mut self,
        who: &Identity,
        key: &str,
        amount: i64,
    ) -> Result<BarrierResult, Error> {
        self.adjust_of(&branch(who), key, amount)
    }

    pub(crate) fn adjust_of(
        &mut self,
        branch: &Branch,
        key: &str,
        amount: i64,
    ) -> Result<BarrierResult, Error> {
        let ran = branch.adjust(&mut self.conn, key, amount);
        self.runtime.block_on(ran).map(|ran| ran.result())
    }

    pub(crate) fn check_back(&mut self, who: &Identity) -> BranchResult {
        let asked = branch(who);
        self.runtime.block_on(asked.check_back(&mut self.conn))
    }

    pub(crate) fn get(&mut self, key: &str) -> Option<String> {
        self.query(Cmd::new().arg("GET").arg(key))
    }

    pub(crate) fn set(&mut self, key: &str, value: &str) {
        let answer: Value = self.query(Cmd::new().arg("SET").arg(key).arg(value));
        assert_eq!(answer, Value::Okay);
    }

    /// The markers of a gid and their values, in order; each must have its lifetime.
    pub(crate) fn markers(&mut self, gid: &str) -> Vec<(String, String)> {
        let keys: Vec<String> = self.query(Cmd::new().arg("KEYS").arg(format!("{gid}-*")));
        let mut markers = Vec::new();
        for key in keys {
            let left: i64 = self.query(Cmd::new().arg("PTTL").arg(&key));
            assert!(
                (DEFAULT_TTL - 600_000..=DEFAULT_TTL).contains(&left),
                "{key} lives {left} ms"
            );
            let value = self.get(&key).expect("a marker");
            markers.push((key, value));
        }
        markers.sort();
        markers
    }
}

pub(crate) fn branch(who: &Identity) -> Branch {
    Branch::new(who.clone(), DEFAULT_TTL)
}

pub(crate) fn body(body: &str, keys: &[&str]) -> Work {
    Work {
        body: body.to_owned(),
        keys: keys.iter().map(|&key| key.to_owned()).collect(),
        args: Vec::new(),
    }
}

pub(crate) fn kind<T: std::fmt::Debug>(result: &Result<T, Error>) -> ErrorKind {
    result.as_ref().expect_err("an error").kind()
}

pub(crate) fn pairs(markers: &[(&str, &str)]) -> Vec<(String, String)> {
    let owned = |&(key, value): &(&str, &str)| (key.to_owned(), value.to_owned());
    markers.iter().map(owned).collect()
}
