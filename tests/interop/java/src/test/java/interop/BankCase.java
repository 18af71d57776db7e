package interop;

import static org.junit.jupiter.api.Assertions.assertEquals;

import java.util.List;
import java.util.Map;
import java.util.UUID;
import org.junit.jupiter.api.AfterEach;
import org.junit.jupiter.api.BeforeEach;
import pub.dtm.client.DtmClient;

/** The frame of every test: a client, a bank where alice has 100 and bob 0, and a gid. */
abstract class BankCase {
    final DtmClient dtm = new DtmClient(Coordinator.endpoint());
    final String gid = "java-" + UUID.randomUUID();
    Bank bank;

    @BeforeEach
    void open() throws Exception {
        bank = new Bank();
        bank.open("alice", 100);
        bank.open("bob", 0);
    }

    @AfterEach
    void close() {
        bank.close();
    }

    static Map<String, Object> amount(long amount) {
        return Map.of("amount", amount);
    }

    void assertMoney(String alice, String bob) throws Exception {
        assertEquals(Map.of("alice", alice, "bob", bob), bank.balances());
    }

    void assertTrace(String... calls) {
        assertEquals(List.of(calls), bank.trace());
    }
}
