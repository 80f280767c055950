"""What grows: how much a message, a connection or a link costs when there are many of them.

    definitions.py    what grows, in which steps, and what is measured at each
    connections.py    threads.py    links.py    clients.py    the two sides of each; sizes.py is
                      about one message
    control.py        how a client tells its server what comes next
    measuring.py      what they share: times, memory
    child.py          what runs in the two processes
    runner.py         in which order, and within which time
    charts.py         pictures for the HTML report

Each step has two new processes, so that nothing is left of the step before.
"""
