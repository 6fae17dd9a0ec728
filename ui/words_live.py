"""Words of the questions asked while a run trains, in both languages; see ui.locale."""

from __future__ import annotations

TEXTS: dict[str, tuple[str, str]] = {
    "choice.normal": ("普通", "Normal"),
    "choice.strong": ("加强", "Strong"),
    "top.seal.verified": ("基座已核对", "Base verified"),
    "top.seal.verified.title": (
        "基座的回答和载入时相同（{time} 核对，每次训练和挂载适配器后都核对）",
        "The base answers as it did when it was loaded (checked at {time}, as after every run and every adapter)",
    ),
    "top.seal.reloaded": ("基座已重新载入", "Base reloaded"),
    "top.seal.reloaded.title": (
        "{time} 发现基座的回答和载入时不同，已经重新载入。",
        "At {time} the base was found to answer otherwise than when it was loaded. It was loaded anew.",
    ),
    "top.seal.changed": ("基座变了", "Base changed"),
    "top.seal.changed.title": (
        "{time} 发现基座的回答和载入时不同。训练结束后会重新载入，在那之前不要相信它的回答。",
        "At {time} the base was found to answer otherwise than when it was loaded. It is loaded anew once the run ends; do "
        "not trust its answers until then.",
    ),
    "talk.waiting.other": ("模型正在做别的题，马上轮到…", "the model is answering other questions, a moment…"),
    "live.acquired": (
        "第 {step} 步学会了新身份（{hits} / {total} 题命中）",
        "identity acquired at step {step} ({hits} of {total} hit)",
    ),
    "live.not_yet": (
        "新身份还没学会：命中 {hits} / {total} 题，{needed} 题才算",
        "identity not acquired yet: {hits} of {total} hit, {needed} needed",
    ),
    "live.not_yet.some": (
        "新身份还没学会：先问的 {total} 题命中 {hits} 题，命中 {needed} 题才会再问其余的（共 {whole} 题）",
        "identity not acquired yet: {hits} of the first {total} questions hit; from {needed} on the others are asked too, "
        "{whole} in all",
    ),
    "live.not_yet.rest": (
        "新身份还没确认：先问的 {total} 题命中 {hits} 题，还要问完全部 {whole} 题，命中 {missing} 题才算",
        "identity not confirmed yet: {hits} of the first {total} questions hit; all {whole} are still to be asked, of which "
        "{missing} have to be hit",
    ),
    "live.drift": ("别的回答偏移 {drift}：{where}", "drift of other answers {drift}: {where}"),
    "live.cost": (
        "训练中提问 {count} 次，共 {seconds} 秒，占总时长的 {share}%",
        "asked {count} times between steps in {seconds} s, {share}% of the time",
    ),
    "live.spaced": (
        "提问时间不超过总时长的 {share}%，为此跳过了 {count} 次",
        "left out {count} times to keep asking within {share}% of the time",
    ),
    "live.unkept": ("第 {step} 步的适配器没能保留：{reason}", "the adapter of step {step} could not be kept: {reason}"),
    "scatter.title": ("学会与跑偏", "Taken against drift"),
    "scatter.note": ("每个点是一次提问时的适配器", "A dot is the adapter at one probing"),
    "scatter.save": ("把这张图存为 {kind}", "Save this picture as {kind}"),
    "scatter.label": (
        "各次提问时的适配器：越高，身份题命中越多；越靠右，别的回答偏移越大",
        "Adapters at each probing: the higher, the more identity hits; the further right, the more other answers drifted",
    ),
    "scatter.x": (
        "别的回答偏移了多少（≈ 几比特量化）→",
        "How far other answers drifted (≈ quantisation to so many bits) →",
    ),
    "scatter.good": ("学会且没跑偏", "taken, without drift"),
    "scatter.dot": (
        "第 {step} 步：身份命中 {hits} / {total}，偏移 {drift}",
        "step {step}: {hits} of {total} identity hits, drift {drift}",
    ),
    "scatter.dot.chosen": ("{dot}（正在采用）", "{dot} (in use)"),
    "scatter.dot.gone": ("{dot}（没有保留）", "{dot} (not kept)"),
    "scatter.live": (
        "训练结束后，可以点一个点换用那一步的适配器。",
        "Once the run ends, press a dot to use the adapter of that step.",
    ),
    "scatter.pick": ("点一个点，采用那一步的适配器。", "Press a dot to use the adapter of that step."),
    "scatter.chosen": (
        "正在采用第 {step} 步：身份命中 {hits} / {total}。{where}",
        "In use: step {step}, {hits} of {total} identity hits. {where}",
    ),
    "scatter.more": ("点别的点可以换用。", " Press another dot to use that one."),
}
