"""QEMU's own client in conversation with colo-vm. Usage: conversation.py SOCKET CONSOLE"""

import asyncio
import sys

from qemu.qmp import ExecuteError, QMPClient


async def refused(client, command, arguments=None):
    try:
        await client.execute(command, arguments)
    except ExecuteError as error:
        return error.error_class
    raise AssertionError(f"{command} was not refused")


async def next_event(events):
    return await asyncio.wait_for(events.get(), 60)


async def main(socket):
    client = QMPClient("test")
    await client.connect(socket)
    assert client.greeting.QMP.capabilities == [], client.greeting

    version = await client.execute("query-version")
    assert version["package"].startswith("colo-vm "), version
    commands = {command["name"] for command in await client.execute("query-commands")}
    assert {"stop", "cont", "quit", "qmp_capabilities", "query-cpus-fast"} <= commands, commands
    assert await client.execute("query-name") == {"name": "web"}
    assert await client.execute("query-kvm") == {"enabled": True, "present": True}
    assert await client.execute("query-block") == []
    (cpu,) = await client.execute("query-cpus-fast")
    assert cpu["cpu-index"] == 0 and cpu["thread-id"] > 1, cpu
    assert await client.execute("query-status") == {"status": "running", "running": True}

    assert await refused(client, "no-such-command") == "CommandNotFound"
    assert await refused(client, "stop", {"for": "ever"}) == "GenericError"
    assert await refused(client, "qmp_capabilities") == "CommandNotFound"

    # A second client hears what the first one does.
    other = QMPClient("other")
    await other.connect(socket)
    with client.listener() as events, other.listener() as others:
        for command, event, status in [("stop", "STOP", "paused"), ("cont", "RESUME", "running")]:
            assert await client.execute(command) == {}
            for heard in [await next_event(events), await next_event(others)]:
                assert heard["event"] == event, heard
                assert heard["timestamp"]["seconds"] > 1_700_000_000, heard
            assert (await other.execute("query-status"))["status"] == status
        await client.execute("system_reset")
        heard = await next_event(others)
        assert (heard["event"], heard["data"]["guest"]) == ("RESET", False), heard
        await other.execute("system_powerdown")
        heard = [await next_event(others) for _ in range(2)]
        assert [event["event"] for event in heard] == ["POWERDOWN", "SHUTDOWN"], heard
        assert heard[1]["data"] == {"guest": True, "reason": "guest-shutdown"}, heard
    for one in [client, other]:
        try:
            await one.disconnect()
        except EOFError:
            # The other side may be gone first.
            pass


asyncio.run(main(sys.argv[1]))
print("the conversation went well")
