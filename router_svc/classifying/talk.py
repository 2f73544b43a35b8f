"""Words that carry a conversation on and tell nothing of what it is about."""

_WORDS = """
about actually after again all also always am an and another answer any anything are as at back be because been before
being better both brief briefly but by came can case clarify clear come confused continue correct could detail
detailed details did different do does doing don done each elaborate else enough even every exactly example examples
expand explain explained few first five for from further get getting give given go going good got great had has have
he hello help her here hi him his hm hmm how however idea if im in instead is it its just keep know last later leave
less let like little ll longer look made make makes many matter may maybe me mean means meant might more most much
must my need never new next no nope not nothing now of off oh ok okay on once one ones only or other others our out
over own part parts please point possible put question quite rather re really reason repeat rephrase right said same
say saying second see seem sense she shorter shortly should show simple simpler simply so some something sorry step
steps still stuck summarise summarize summary sure take tell than thank thanks that the their them then there these
they thing things think third this those though time to too true try two understand understood until up us use ve very
wait want was way ways we well were what whatever when where whether which while who why will wish with without wonder
word words work would wrong yeah yes yet you your yours
"""

TALK = frozenset(_WORDS.strip().replace("\n", " ").split(" "))
