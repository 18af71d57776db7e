package interop;

import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;
import java.io.IOException;
import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpResponse;
import java.time.Duration;
import java.time.Instant;
import java.util.ArrayList;
import java.util.List;

/** What the tests ask the coordinator beside the client: how a transaction stands, and to go on with it now. */
final class Coordinator {
    /** How long anything that must happen may take on a busy machine. */
    private static final Duration DEADLINE = Duration.ofSeconds(20);

    private static final HttpClient HTTP = HttpClient.newHttpClient();

    private Coordinator() {}

    /** Host and port, as the client takes it. */
    static String endpoint() {
        return URI.create(Bank.env("AMENDS_HTTP")).getAuthority();
    }

    /** One answer of /query. */
    static final class View {
        final JsonNode transaction;
        /** Branch id, op and status of each row. */
        final List<String> rows = new ArrayList<>();

        View(JsonNode answer) {
            transaction = answer.get("transaction");
            for (JsonNode row : answer.get("branches")) {
                rows.add(row.get("branch_id").asText() + " " + row.get("op").asText() + " " + row.get("status").asText());
            }
        }

        String status() {
            return transaction.path("status").asText();
        }

        String reason() {
            return transaction.path("rollback_reason").asText();
        }
    }

    private static String send(HttpRequest.Builder request, String path) throws IOException, InterruptedException {
        URI uri = URI.create("http://" + endpoint() + "/api/dtmsvr/" + path);
        HttpResponse<String> answer = HTTP.send(request.uri(uri).timeout(DEADLINE).build(), HttpResponse.BodyHandlers.ofString());
        if (answer.statusCode() != 200) {
            throw new IOException(path + ": " + answer.statusCode() + " " + answer.body());
        }
        return answer.body();
    }

    static View query(String gid) throws IOException, InterruptedException {
        return new View(new ObjectMapper().readTree(send(HttpRequest.newBuilder(), "query?gid=" + gid)));
    }

    /** Waits until the transaction has this status. */
    static View waitStatus(String gid, String status) throws IOException, InterruptedException {
        Instant end = Instant.now().plus(DEADLINE);
        while (true) {
            View view = query(gid);
            if (view.status().equals(status)) {
                return view;
            }
            if (Instant.now().isAfter(end)) {
                throw new AssertionError(gid + " is not " + status + " within " + DEADLINE + ": " + view.transaction);
            }
            Thread.sleep(10);
        }
    }

    static void post(String route, String body) throws IOException, InterruptedException {
        send(HttpRequest.newBuilder().POST(HttpRequest.BodyPublishers.ofString(body)), route);
    }

    /** Makes a waiting transaction due at once. */
    static void kick(String gid) throws IOException, InterruptedException {
        post("resetNextCronTime", "{\"gid\":\"" + gid + "\"}");
    }
}
