"""Lowercase word lists for `sentence_end`: abbreviations with a full stop, words that begin sentences."""

from __future__ import annotations


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


# Before a name or in the midst of a sentence: a full stop behind them ends nothing.
NEVER_LAST = _words(
    """
    mr mrs ms mx dr drs prof rev fr hon pres gov sen rep gen col maj capt cpt lt sgt cpl pvt adm
    cmdr comdr supt insp det messrs mme mmes mlle mlles mgr msgr ven ste mt ft vs viz cf e.g i.e eg
    ie ca approx ex esp sr sra srta sres dña ud uds sig sigg dott avv ing arch z.b d.h u.a u.u s.o
    s.u v.a bzw ggf evtl inkl hr hrn fr frl dipl evang kath bspw vgl т.е т.к им ул г-н г-жа гр св см
    ср напр тов p.ex c.-à-d núm pág art dhr mevr dhrn ir nv
    """
)
# Before a number.
NUMBERED = _words(
    "no nos nr num fig figs vol vols pp p ch chap sec sect art para pt ed eds op bk стр рис гл п"
)
# Where a full stop may stand for both: an end if a new sentence clearly follows, or nothing.
OFTEN_LAST = _words(
    """
    etc jr inc ltd co corp bros st ave rd blvd ln dept est assn univ esq a.m p.m am pm u.s u.k u.n
    d.c b.c a.d jan feb mar apr jun jul aug sept oct nov dec mon tue tues wed thu thurs fri sat sun
    ph.d m.d b.a m.a usw str tel др т.д т.п гг руб тыс млн
    """
)
MONTHS = _words(
    """
    Januar Jänner Februar März April Mai Juni Juli August September Oktober November Dezember
    """
)
# As they are written there.
STARTERS = _words(
    """
    He She It They We You I His Her Its Their Our My Your The A An This That These Those There Then
    When While Where What Why Who How But And Or So Yet For If In On At As After Before Now Once Not
    No Yes Nothing Someone Everyone All One Two Every Each Both With Without Only Even Still
    Just Perhaps Maybe Outside Inside Er Sie Es Wir Ihr Der Die Das Ein Eine Und Aber Als Wenn Da
    Dann Il Elle Ils Elles Nous Vous Le La Les Un Une Et Mais El Ella Ellos Los Las Una Y Pero Él Он
    Она Оно Они Мы Вы И А Но Это
    """
)
