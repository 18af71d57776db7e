package interop;

import com.fasterxml.jackson.databind.ObjectMapper;
import com.sun.net.httpserver.HttpExchange;
import com.sun.net.httpserver.HttpServer;
import java.io.IOException;
import java.io.InputStream;
import java.net.InetAddress;
import java.net.InetSocketAddress;
import java.nio.charset.StandardCharsets;
import java.sql.Connection;
import java.sql.DriverManager;
import java.sql.PreparedStatement;
import java.sql.ResultSet;
import java.sql.SQLException;
import java.sql.Statement;
import java.util.ArrayDeque;
import java.util.ArrayList;
import java.util.Deque;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.TreeMap;
import java.util.concurrent.ExecutorService;
import java.util.concurrent.Executors;
import java.util.stream.Collectors;
import pub.dtm.client.barrier.BranchBarrier;
import pub.dtm.client.exception.FailureException;

/**
 * A participant: accounts in MariaDB, changed only under the barrier of DTM's client, behind an HTTP server on a free port that
 * serves {@code /<account>/<verb>}.
 */
final class Bank implements AutoCloseable {
    /** A scripted answer. */
    enum Answer {
        /** 409, nothing done. */
        REFUSED,
        /** 425, nothing done. */
        ONGOING,
        /** The work done, and its answer lost: 500. */
        LOST,
        /** 200, nothing done. */
        SKIPPED
    }

    /** The client's barrier names no schema, so its table and the accounts share one of their own. */
    private static final String SCHEMA = "java_bank";

    private static final List<String> TABLES =
            List.of(
                    "create table if not exists account (name varchar(64) primary key,"
                            + " balance bigint not null, frozen bigint not null default 0) engine = InnoDB",
                    "create table if not exists barrier (id bigint primary key auto_increment,"
                            + " trans_type varchar(45) not null, gid varchar(128) not null,"
                            + " branch_id varchar(128) not null, op varchar(45) not null,"
                            + " barrier_id varchar(45) not null, reason varchar(45) not null,"
                            + " create_time datetime not null default now(),"
                            + " unique key (gid, branch_id, op, barrier_id)) engine = InnoDB");

    /** What each verb does to an account, given the name; where no row is affected, the account does not allow it. */
    private static final Map<String, String> VERBS =
            Map.of(
                    "action", "balance = balance + :amount where name = ? and balance + :amount >= 0",
                    "compensate", "balance = balance - :amount where name = ?",
                    "try", "frozen = frozen + :amount where name = ? and balance + frozen + :amount >= 0",
                    "confirm", "balance = balance + :amount, frozen = frozen - :amount where name = ?",
                    "cancel", "frozen = frozen - :amount where name = ?");

    private final HttpServer http;
    private final ExecutorService threads = Executors.newCachedThreadPool();
    private final List<Call> calls = new ArrayList<>();
    private final Map<String, Deque<Answer>> scripts = new HashMap<>();

    Bank() throws IOException, SQLException {
        try (Connection db = connect(env("MARIADB_DATABASE"));
                Statement statement = db.createStatement()) {
            statement.execute("create database if not exists " + SCHEMA);
        }
        try (Connection db = connect(SCHEMA);
                Statement statement = db.createStatement()) {
            for (String table : TABLES) {
                statement.execute(table);
            }
        }
        http = HttpServer.create(new InetSocketAddress(InetAddress.getLoopbackAddress(), 0), 0);
        http.setExecutor(threads);
        http.createContext("/", this::serve);
        http.start();
    }

    @Override
    public void close() {
        http.stop(0);
        threads.shutdown();
    }

    static String env(String name) {
        String value = System.getenv(name);
        if (value == null) {
            throw new IllegalStateException(name + " is not set: these tests are run by `cargo test -p amends-interop`");
        }
        return value;
    }

    private static Connection connect(String schema) throws SQLException {
        String url = "jdbc:mariadb://" + env("MARIADB_HOST") + ":" + env("MARIADB_PORT") + "/" + schema;
        return DriverManager.getConnection(url, env("MARIADB_USER"), env("MARIADB_PASSWORD"));
    }

    String url(String account, String verb) {
        return "http://127.0.0.1:" + http.getAddress().getPort() + "/" + account + "/" + verb;
    }

    /** Creates an account, or sets it back. */
    void open(String account, long balance) throws SQLException {
        try (Connection db = connect(SCHEMA);
                PreparedStatement statement = db.prepareStatement("replace into account(name, balance) values(?, ?)")) {
            statement.setString(1, account);
            statement.setLong(2, balance);
            statement.executeUpdate();
        }
    }

    /** Every account with its balance and, where there is some, its frozen money. */
    Map<String, String> balances() throws SQLException {
        Map<String, String> found = new TreeMap<>();
        try (Connection db = connect(SCHEMA);
                Statement statement = db.createStatement();
                ResultSet rows = statement.executeQuery("select name, balance, frozen from account")) {
            while (rows.next()) {
                String frozen = rows.getLong(3) == 0 ? "" : " frozen " + rows.getLong(3);
                found.put(rows.getString(1), rows.getLong(2) + frozen);
            }
        }
        return found;
    }

    /** What the next calls are answered; after these, calls are served. */
    synchronized void script(String account, String verb, Answer... answers) {
        scripts.put(account + "/" + verb, new ArrayDeque<>(List.of(answers)));
    }

    synchronized List<Call> calls() {
        return List.copyOf(calls);
    }

    /** Branch id, account and verb of every call, in order of arrival. */
    List<String> trace() {
        return calls().stream().map(Call::toString).collect(Collectors.toList());
    }

    private synchronized Answer record(Call call) {
        calls.add(call);
        Deque<Answer> script = scripts.get(call.account + "/" + call.verb);
        return script == null ? null : script.poll();
    }

    private void serve(HttpExchange exchange) throws IOException {
        try {
            String[] path = exchange.getRequestURI().getPath().split("/");
            Map<String, String> identity = new HashMap<>();
            for (String pair : exchange.getRequestURI().getQuery().split("&")) {
                identity.put(pair.split("=", 2)[0], pair.split("=", 2)[1]);
            }
            String body;
            try (InputStream input = exchange.getRequestBody()) {
                body = new String(input.readAllBytes(), StandardCharsets.UTF_8);
            }
            Call call = new Call(exchange.getRequestMethod(), path[1], path[2], identity, exchange.getRequestHeaders(), body);
            int status = status(call, record(call));
            byte[] answer = ("{\"status\":" + status + "}").getBytes(StandardCharsets.UTF_8);
            exchange.getResponseHeaders().set("Content-Type", "application/json");
            exchange.sendResponseHeaders(status, answer.length);
            exchange.getResponseBody().write(answer);
        } finally {
            exchange.close();
        }
    }

    private int status(Call call, Answer scripted) {
        try {
            if (scripted == Answer.REFUSED) {
                return 409;
            }
            if (scripted == Answer.ONGOING) {
                return 425;
            }
            if (scripted != Answer.SKIPPED) {
                work(call);
            }
            return scripted == Answer.LOST ? 500 : 200;
        } catch (FailureException e) {
            return 409;
        } catch (Exception e) {
            e.printStackTrace();
            return 500;
        }
    }

    /** The change of the call's verb, under the client's barrier. */
    void work(Call call) throws Exception {
        Map<String, String[]> query = new HashMap<>();
        call.identity.forEach((key, value) -> query.put(key, new String[] {value}));
        long amount = new ObjectMapper().readTree(call.body).get("amount").asLong();
        try (Connection db = connect(SCHEMA)) {
            new BranchBarrier(query).call(db, barrier -> change(db, call.verb, call.account, amount));
        }
    }

    private static void change(Connection db, String verb, String account, long amount) throws SQLException, FailureException {
        String update = "update account set " + VERBS.get(verb).replace(":amount", Long.toString(amount));
        try (PreparedStatement statement = db.prepareStatement(update)) {
            statement.setString(1, account);
            if (statement.executeUpdate() == 0) {
                throw new FailureException(account + " has not enough");
            }
        }
    }
}
