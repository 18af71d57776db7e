package interop;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertInstanceOf;
import static org.junit.jupiter.api.Assertions.assertThrows;

import feign.FeignException;
import java.util.List;
import java.util.Map;
import org.junit.jupiter.api.Test;
import pub.dtm.client.exception.FailureException;
import pub.dtm.client.tcc.Tcc;

/** TCC of DTM's Java client. */
class TccTest extends BankCase {
    /** Registers a branch and calls its try. */
    private void branch(Tcc tcc, String account, long amount) throws Exception {
        tcc.callBranch(amount(amount), bank.url(account, "try"), bank.url(account, "confirm"), bank.url(account, "cancel"));
    }

    @Test
    void triesAreConfirmedInReverse() throws Exception {
        String done =
                dtm.tccGlobalTransaction(
                        gid,
                        tcc -> {
                            branch(tcc, "alice", -30);
                            branch(tcc, "bob", 30);
                            assertMoney("100 frozen -30", "0 frozen 30");
                        });
        assertEquals(gid, done);
        Coordinator.View view = Coordinator.waitStatus(gid, "succeed");
        assertMoney("70", "30");
        assertTrace("01 alice/try", "02 bob/try", "02 bob/confirm", "01 alice/confirm");
        assertEquals(List.of("01 cancel prepared", "01 confirm succeed", "02 cancel prepared", "02 confirm succeed"), view.rows);
        Call confirm = bank.calls().get(2);
        assertEquals("POST {\"amount\":30}", confirm.method + " " + confirm.body);
        assertEquals(Map.of("gid", gid, "trans_type", "tcc", "branch_id", "02", "op", "confirm"), confirm.identity);
    }

    @Test
    void theClientFetchesAGid() throws Exception {
        String fetched = dtm.tccGlobalTransaction(tcc -> branch(tcc, "alice", -30));
        assertEquals(22, fetched.length());
        Coordinator.waitStatus(fetched, "succeed");
        assertMoney("70", "0");
    }

    @Test
    void aRefusedTryCancelsAll() throws Exception {
        FailureException thrown =
                assertThrows(
                        FailureException.class,
                        () ->
                                dtm.tccGlobalTransaction(
                                        gid,
                                        tcc -> {
                                            branch(tcc, "bob", 30);
                                            branch(tcc, "alice", -1000);
                                        }));
        assertInstanceOf(FailureException.class, thrown.getCause());
        Coordinator.View view = Coordinator.waitStatus(gid, "failed");
        assertMoney("100", "0");
        // The barrier makes the cancel of the refused try an empty one.
        assertTrace("01 bob/try", "02 alice/try", "02 alice/cancel", "01 bob/cancel");
        assertEquals(List.of("01 cancel succeed", "01 confirm prepared", "02 cancel succeed", "02 confirm prepared"), view.rows);
    }

    @Test
    void anErrorOfTheInitiatorCancelsWhatWasTried() throws Exception {
        FailureException thrown =
                assertThrows(
                        FailureException.class,
                        () ->
                                dtm.tccGlobalTransaction(
                                        gid,
                                        tcc -> {
                                            branch(tcc, "alice", -30);
                                            throw new ArithmeticException("in the business code");
                                        }));
        assertInstanceOf(ArithmeticException.class, thrown.getCause());
        Coordinator.waitStatus(gid, "failed");
        assertMoney("100", "0");
        assertTrace("01 alice/try", "01 alice/cancel");
    }

    @Test
    void aLateBranchIsRefusedAndNeverTried() throws Exception {
        // Registering is refused, then so is the abort of what has been submitted: that is what the client lets out.
        assertThrows(
                FeignException.Conflict.class,
                () ->
                        dtm.tccGlobalTransaction(
                                gid,
                                tcc -> {
                                    branch(tcc, "alice", -30);
                                    Coordinator.post("submit", "{\"gid\":\"" + gid + "\",\"trans_type\":\"tcc\"}");
                                    branch(tcc, "bob", 30);
                                }));
        Coordinator.waitStatus(gid, "succeed");
        assertMoney("70", "0");
        assertTrace("01 alice/try", "01 alice/confirm");
    }

    @Test
    void aTryAfterItsCancelChangesNothing() throws Exception {
        bank.script("alice", "try", Bank.Answer.SKIPPED);
        assertThrows(
                FailureException.class,
                () ->
                        dtm.tccGlobalTransaction(
                                gid,
                                tcc -> {
                                    branch(tcc, "alice", -30);
                                    throw new IllegalStateException("the network, say");
                                }));
        Coordinator.waitStatus(gid, "failed");
        bank.work(bank.calls().get(0));
        assertMoney("100", "0");
        assertTrace("01 alice/try", "01 alice/cancel");
    }

    @Test
    void aConfirmWhoseAnswerWasLostIsDoneOnce() throws Exception {
        bank.script("alice", "confirm", Bank.Answer.LOST);
        dtm.tccGlobalTransaction(gid, tcc -> branch(tcc, "alice", -30));
        Coordinator.waitStatus(gid, "succeed");
        assertMoney("70", "0");
        assertTrace("01 alice/try", "01 alice/confirm", "01 alice/confirm");
    }
}
