"""sushy-emulator over the lab's virtual servers.

sushy-tools drives libvirt, OpenStack or a fake. This is its fake driver with the power made real: a system
has the path of its QEMU's control socket (QMP) as `qmp`. Off is a machine whose processor is stopped; on is
one that is reset and goes on; a restart is a reset. Run with --config, as sushy-emulator itself.
"""

import json
import socket
import sys

from sushy_tools.emulator import main
from sushy_tools.emulator.resources.systems import fakedriver
from sushy_tools import error

STEPS = {
    'On': ['system_reset', 'cont'],
    'ForceOn': ['system_reset', 'cont'],
    'ForceRestart': ['system_reset', 'cont'],
    'ForceOff': ['stop'],
}


def qmp(path, commands):
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(30)
        connection.connect(path)
        lines = connection.makefile('rw')
        lines.readline()  # The greeting.
        for command in ['qmp_capabilities', *commands]:
            lines.write(json.dumps({'execute': command}) + '\n')
            lines.flush()
            while True:
                answer = json.loads(lines.readline())
                if 'error' in answer:
                    raise error.FishyError(answer['error']['desc'])
                if 'return' in answer:
                    break


class LabDriver(fakedriver.FakeDriver):
    def set_power_state(self, identity, state):
        if state not in STEPS:
            raise error.NotSupportedError(f'{state} is not supported')
        system = self._get(identity)
        qmp(system['qmp'], STEPS[state])
        self._update(system, power_state='Off' if state == 'ForceOff' else 'On')


fakedriver.FakeDriver = LabDriver
sys.exit(main.main())
